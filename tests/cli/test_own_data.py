"""Importing the user's own data; test_data_option.py covers the errors."""

import sys
from types import ModuleType

import pytest

from nnx_alexnet import DataModule, load_data
from nnx_alexnet.cli.own_data import imported


def test_functions_and_subclasses_are_data():
    assert imported("nnx_alexnet.data.load_data") is load_data
    assert imported("nnx_alexnet.DataModule") is DataModule


def test_other_classes_are_not(monkeypatch):
    module = ModuleType("mine")
    module.Other = int
    monkeypatch.setitem(sys.modules, "mine", module)
    with pytest.raises(ValueError, match="must be your own function that returns a DataModule"):
        imported("mine.Other")

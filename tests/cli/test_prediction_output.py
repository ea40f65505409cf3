"""The predicted classes as text, JSON and CSV."""

import csv
import io
import json
import os

import numpy as np
import pytest
from helpers import CONTROLS, HOSTILE, HOSTILE_SHOWN

from nnx_alexnet.cli.prediction_output import csv_cell, open_output, write_predictions


def written(form, out=None):
    out = io.StringIO() if out is None else out
    batch = [(HOSTILE, np.array([0.25, 0.75])), ("=1+1.png", np.array([1.0, np.nan]))]
    write_predictions([batch], ["-2", HOSTILE], top_k=2, form=form, out=out)
    return out.getvalue()


def test_text_has_one_line_per_file():
    first, second = written("text").splitlines()
    shown = HOSTILE_SHOWN.replace(
        r"\udcff", "\udcff"
    )  # a byte that is not text is written as it is
    assert first == f"{shown}  {shown} 0.7500  -2 0.2500"
    assert second == f"=1+1.png  -2 1.0000  {shown} nan"


def test_json_has_exact_names_and_null_for_nan():
    first, second = map(json.loads, written("json").splitlines())
    assert first == {
        "file": HOSTILE,
        "classes": [{"class": HOSTILE, "probability": 0.75}, {"class": "-2", "probability": 0.25}],
    }
    assert second["classes"][1] == {"class": HOSTILE, "probability": None}


def test_csv_has_exact_names_except_formulas():
    rows = list(csv.reader(io.StringIO(written("csv"), newline="")))
    assert rows[1:] == [
        [HOSTILE, "1", HOSTILE, "0.75"], [HOSTILE, "2", "-2", "0.25"],
        ["'=1+1.png", "1", "-2", "1.0"], ["'=1+1.png", "2", HOSTILE, "nan"],
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["text", "csv", "json"])
def test_control_characters_are_escaped_on_a_terminal(form):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    text = written(form, Terminal())
    assert set(text) & CONTROLS == {"\n"}
    assert len(text.splitlines()) == (2 if form == "json" else 5)


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "=", "-", "-x.png"]
)
def test_a_formula_gets_an_apostrophe(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["cat", "", "-1", "+2.5e3", "a=b", "'=1", " =1", "0.1"])
def test_other_cells_are_unchanged(text):
    assert csv_cell(text) == text


def test_output_is_discarded_without_standard_output(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    with open_output(None) as out:
        print("a line", file=out)
    assert out.name == os.devnull

"""Freed memory is kept where the C library is glibc."""

import ctypes
import platform
from types import SimpleNamespace

import pytest

from nnx_alexnet.devices.host_memory import keep_freed_memory


@pytest.fixture
def calls(monkeypatch):
    """The calls of `mallopt`, which succeed."""
    found = []

    def mallopt(name, value):
        found.append((name, value))
        return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    return found


def test_glibc_keeps_freed_memory(monkeypatch, calls):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.31"))
    assert keep_freed_memory()
    m_trim_threshold, m_mmap_max = -1, -4  # of glibc's malloc.h
    assert (m_mmap_max, 0) in calls
    assert (m_trim_threshold, 2**31 - 1) in calls


def test_other_c_libraries_are_left_alone(monkeypatch, calls):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert not keep_freed_memory()
    assert calls == []

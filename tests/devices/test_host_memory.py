"""Freed memory is kept on a CPU where the C library is glibc."""

import ctypes
import platform
from types import SimpleNamespace

import jax
import pytest

from nnx_alexnet.devices.host_memory import keep_freed_memory


@pytest.fixture
def calls(monkeypatch):
    """Records the calls of `mallopt`, which succeed."""
    found = []

    def mallopt(name, value):
        found.append((name, value))
        return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.31"))
    return found


@pytest.fixture(autouse=True)
def changed(monkeypatch):
    """Records the JAX settings that the function changes."""
    monkeypatch.delenv("JAX_CPU_ENABLE_ASYNC_DISPATCH", raising=False)
    found = {}
    monkeypatch.setattr(jax.config, "update", found.__setitem__)
    return found


def test_glibc_keeps_freed_memory_and_steps_run_in_place(calls, changed):
    assert keep_freed_memory()
    m_trim_threshold, m_mmap_max = -1, -4  # of glibc's malloc.h
    assert (m_mmap_max, 0) in calls
    assert (m_trim_threshold, 2**31 - 1) in calls
    assert changed == {"jax_cpu_enable_async_dispatch": False}


def test_the_number_of_arenas_is_not_limited(calls):
    keep_freed_memory()
    m_arena_max = -8
    assert m_arena_max not in dict(calls)


def test_the_users_dispatch_mode_wins(monkeypatch, calls, changed):
    monkeypatch.setenv("JAX_CPU_ENABLE_ASYNC_DISPATCH", "true")
    assert keep_freed_memory()
    assert changed == {}


def test_glibc_is_not_changed_on_an_accelerator(monkeypatch, calls):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not keep_freed_memory()
    assert calls == []


def test_other_c_libraries_are_not_changed(monkeypatch, calls, changed):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert not keep_freed_memory()
    assert (calls, changed) == ([], {})

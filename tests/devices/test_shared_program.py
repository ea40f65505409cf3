"""`SharedProgram`: on CPUs, a call may have to wait for its arguments or its results."""

import jax
import jax.numpy as jnp
import pytest

from nnx_alexnet.devices.shared_program import SharedProgram


@pytest.mark.parametrize(
    ("processes", "backend", "waits"),
    [(1, "cpu", False), (2, "cpu", True), (2, "gpu", False)],
)
def test_a_call_waits_between_processes_on_cpus_only(monkeypatch, processes, backend, waits):
    awaited = []
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "block_until_ready", awaited.append)
    program = SharedProgram(jax.jit(lambda x, y: {"sum": x + y}))
    results = program(jnp.float32(1), jnp.float32(2))
    assert float(results["sum"]) == 3.0
    assert awaited == ([results] if waits else [])


@pytest.mark.parametrize(
    ("backend", "is_async", "waits"),
    [("cpu", False, True), ("cpu", True, False), ("gpu", False, False)],
)
def test_a_call_in_this_thread_waits_for_its_arguments(monkeypatch, backend, is_async, waits):
    awaited = []
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    setting = {"jax_cpu_enable_async_dispatch": is_async}
    monkeypatch.setattr(jax.config, "read", setting.__getitem__)
    monkeypatch.setattr(jax, "block_until_ready", awaited.append)
    program = SharedProgram(lambda x, y: x + y)
    assert program(1, 2) == 3
    assert awaited == ([(1, 2)] if waits else [])

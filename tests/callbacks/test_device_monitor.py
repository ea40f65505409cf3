import mmap
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import Dense, tiny_arrays, trainer_of

from nnx_alexnet import DataModule
from nnx_alexnet.callbacks import Callback, DeviceMonitor, device_monitor


class Log(Callback):
    def __init__(self):
        self.rows = []

    def on_log(self, trainer, metrics, step):
        memory = {name: value for name, value in metrics.items() if "memory" in name}
        is_end_of_epoch = "perf/compile_seconds" in metrics  # which has a peak of its own
        if memory and not is_end_of_epoch:
            self.rows.append((step, memory))


@pytest.fixture
def devices(monkeypatch):
    """Two devices, the second of which does not report its peak."""
    reported = [
        {"bytes_in_use": 100, "peak_bytes_in_use": 300, "num_allocs": 7},
        {"bytes_in_use": 50},
    ]
    fakes = [SimpleNamespace(memory_stats=lambda stats=stats: stats) for stats in reported]
    monkeypatch.setattr(device_monitor, "jax", SimpleNamespace(local_devices=lambda: fakes))


def fit(monitor, **arguments):
    log = Log()
    data = DataModule(tiny_arrays(num=64), batch_size=8)
    trainer = trainer_of(Dense(), data, callbacks=[monitor, log], max_epochs=1, **arguments)
    trainer.fit()
    return trainer, log.rows


@pytest.mark.parametrize(
    ("period", "steps"), [(None, [3, 6]), (4, [4, 8]), (100, [])], ids=["log points", "4", "100"]
)
def test_memory_is_published_at_log_points_or_at_its_own_period(devices, period, steps):
    _, rows = fit(DeviceMonitor(period), log_every_n_steps=3)
    assert [step for step, _ in rows] == steps


def test_each_device_publishes_what_it_reports(devices):
    trainer, rows = fit(DeviceMonitor(), log_every_n_steps=8)
    ((_, memory),) = rows
    host = memory.pop("perf/host_memory_bytes")
    assert memory == {
        "perf/device_0/memory_bytes": 100.0,
        "perf/device_0/peak_memory_bytes": 300.0,
        "perf/device_1/memory_bytes": 50.0,
    }
    assert host > 10_000_000
    assert {*memory, "perf/host_memory_bytes"} <= trainer.metric_names


def test_without_device_statistics_only_host_memory_is_published():
    assert all(device.memory_stats() is None for device in jax.local_devices())  # of a CPU
    trainer, rows = fit(DeviceMonitor(), log_every_n_steps=8)
    assert [set(memory) for _, memory in rows] == [{"perf/host_memory_bytes"}]
    assert not any("/device_" in name for name in trainer.metric_names)


def test_host_memory_grows_with_allocations():
    before = device_monitor.host_memory()
    held = mmap.mmap(-1, 100_000_000)  # fresh pages: an allocator may have free ones
    np.frombuffer(held, np.uint8)[:] = 1
    assert 90_000_000 < device_monitor.host_memory() - before < 150_000_000
    del held  # the process may keep the pages


def test_without_proc_host_memory_is_the_peak(monkeypatch, tmp_path):
    now = device_monitor.host_memory()
    monkeypatch.setattr(device_monitor, "_STATM", tmp_path / "missing")
    assert now / 2 < device_monitor.host_memory() < now * 20


@pytest.mark.parametrize("period", [0, -1, 1.5, True])
def test_a_period_that_is_not_a_positive_integer_is_refused(period):
    with pytest.raises(ValueError, match=re.escape(f"`every_n_steps` (={period!r})")):
        DeviceMonitor(period)

"""`DeviceMonitor`: how much memory the devices and the process have in use."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from nnx_alexnet.callbacks.base import Callback, Stage
from nnx_alexnet.support import check_positive

if TYPE_CHECKING:
    from nnx_alexnet.data import Batch
    from nnx_alexnet.trainer import Trainer

_STATM = Path("/proc/self/statm")

# What a metric ends with, and what the backend calls it.
_STATISTICS = {"memory_bytes": "bytes_in_use", "peak_memory_bytes": "peak_bytes_in_use"}


class DeviceMonitor(Callback):
    """Publishes the memory in use, at each log point.

    `perf/device_<i>/memory_bytes` and `perf/device_<i>/peak_memory_bytes` are of the i-th local
    device, where the backend tells them (a CPU does not); `perf/host_memory_bytes` is what of
    this process lies in the host's memory. The host is asked, so no step is waited for: the device
    may be a few steps behind.

    Args:
        every_n_steps: publish after every n-th optimizer step; None: at the trainer's
            `log_every_n_steps`.

    Raises:
        ValueError: if `every_n_steps` is not a whole number of at least 1, or None.

    Example:
        >>> callbacks = [DeviceMonitor(), DeviceMonitor(every_n_steps=1000)]
        >>> callbacks[1].every_n_steps
        1000
    """

    priority = -1  # what it publishes is known when others check what they monitor

    def __init__(self, every_n_steps: int | None = None):
        check_positive(every_n_steps=every_n_steps)
        self.every_n_steps = every_n_steps
        self._period = every_n_steps

    @property
    def batch_period(self) -> int | None:
        """`every_n_steps`, or the trainer's `log_every_n_steps`."""
        return self._period

    def setup(self, trainer: Trainer, stage: Stage) -> None:
        """Finds out what there is to publish, and how often."""
        if stage == "fit":  # not before: to name the devices is to start the backend
            self._period = self.every_n_steps or trainer.log_every_n_steps
            self.metric_names = tuple(_measure())

    def on_train_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Publishes the memory in use now."""
        trainer.log(_measure())


def _measure() -> dict[str, float]:
    metrics = {}
    for number, device in enumerate(jax.local_devices()):
        told = device.memory_stats() or {}
        for name, statistic in _STATISTICS.items():
            if statistic in told:
                metrics[f"perf/device_{number}/{name}"] = float(told[statistic])
    return {**metrics, "perf/host_memory_bytes": float(host_memory())}


def host_memory() -> int:
    """Returns the bytes of this process that lie in memory; without /proc, the most so far.

    Example:
        >>> host_memory() > 10_000_000  # JAX alone takes more
        True
    """
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)

"""`DeviceMonitor`: publishes the memory in use by the devices and by the process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from nnx_alexnet.callbacks.base import Callback, Stage
from nnx_alexnet.support import check_integer

if TYPE_CHECKING:
    from nnx_alexnet.data import Batch
    from nnx_alexnet.trainer import Trainer

_STATM = Path("/proc/self/statm")

# The end of a metric's name, and the backend's name for the statistic.
_STATISTICS = {"memory_bytes": "bytes_in_use", "peak_memory_bytes": "peak_bytes_in_use"}


class DeviceMonitor(Callback):
    """Publishes the memory in use, at every log point.

    `perf/device_<i>/memory_bytes` and `perf/device_<i>/peak_memory_bytes` belong to the i-th local
    device, if the backend reports them (CPUs do not). `perf/host_memory_bytes` is the resident
    memory of this process. Reading them waits for no step, so the device may be a few steps
    behind.

    Args:
        every_n_steps: publish after every n-th optimizer step; None (the default): the trainer's
            `log_every_n_steps`.

    Raises:
        ValueError: if `every_n_steps` is neither a positive integer nor None.

    Example:
        >>> callbacks = [DeviceMonitor(), DeviceMonitor(every_n_steps=1000)]
        >>> callbacks[1].every_n_steps
        1000
    """

    priority = -1  # `setup` sets `metric_names` before others check what they monitor

    def __init__(self, every_n_steps: int | None = None):
        check_integer("every_n_steps", every_n_steps, also=(None,))
        self.every_n_steps = every_n_steps
        self._period = every_n_steps

    @property
    def batch_period(self) -> int | None:
        """`every_n_steps`, or the trainer's `log_every_n_steps`."""
        return self._period

    def setup(self, trainer: Trainer, stage: Stage) -> None:
        """Determines what can be published, and how often."""
        if stage == "fit":  # not in the constructor: listing the devices starts the backend
            self._period = self.every_n_steps or trainer.log_every_n_steps
            self.metric_names = tuple(_measure())

    def on_train_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Publishes the memory in use."""
        trainer.log(_measure())


def _measure() -> dict[str, float]:
    metrics = {}
    for number, device in enumerate(jax.local_devices()):
        statistics = device.memory_stats() or {}
        for name, statistic in _STATISTICS.items():
            if statistic in statistics:
                metrics[f"perf/device_{number}/{name}"] = float(statistics[statistic])
    return {**metrics, "perf/host_memory_bytes": float(host_memory())}


def host_memory() -> int:
    """Returns the resident memory of this process in bytes; without /proc, its peak.

    Example:
        >>> host_memory() > 10_000_000  # JAX alone needs more
        True
    """
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)

"""Programs that all processes of a run execute together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax

R = TypeVar("R")


class SharedProgram(Generic[R]):
    """A compiled function that all processes of a run call together, in the same order.

    Between processes on CPUs, each call waits for its results. Without that, their collectives
    (Gloo, jax 0.10) sometimes wait for each other forever when a second program is dispatched
    while the first one runs. `jax_cpu_enable_async_dispatch=False` does not prevent it, because it
    does not apply to processes that have several devices. Elsewhere a call returns at once.

    Args:
        function: what `jax.jit` or `nnx.jit` returned, or another function that JAX executes on
            the devices of several processes, such as `jax.device_put`.

    Example:
        >>> import jax
        >>> from nnx_alexnet.devices.shared_program import SharedProgram
        >>> double = SharedProgram(jax.jit(lambda x: 2 * x))
        >>> float(double(3.0))
        6.0
    """

    def __init__(self, function: Callable[..., R]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> R:
        """Calls the function."""
        results = self.function(*arguments)
        if jax.process_count() > 1 and jax.default_backend() == "cpu":
            jax.block_until_ready(results)
        return results

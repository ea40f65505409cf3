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
    does not apply to processes that have several devices.

    With that setting, a single process on a CPU executes a program in the calling thread, but only
    if all arguments are ready. Otherwise another thread executes it, and often all later steps
    too, because each needs the results of the one before. So a call then waits for its arguments:
    AlexNet's steps are up to twice as fast in the main thread, see `keep_freed_memory`.

    Elsewhere a call returns at once.

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
        is_on_cpu = jax.default_backend() == "cpu"
        if is_on_cpu and not jax.config.read("jax_cpu_enable_async_dispatch"):
            jax.block_until_ready(arguments)
        results = self.function(*arguments)
        if is_on_cpu and jax.process_count() > 1:
            jax.block_until_ready(results)
        return results

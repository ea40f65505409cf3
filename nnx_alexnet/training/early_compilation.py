"""`EarlyCompilation`: compiles the train step in a thread, before its first batch arrives.

Meanwhile the host restores a checkpoint, starts its workers, and reads or sends the data.
"""

from __future__ import annotations

import threading
from typing import Any

from nnx_alexnet.devices import SharedProgram
from nnx_alexnet.support import logger


def lower(program: SharedProgram[Any], *arguments: Any) -> Any:
    """Traces a program, with the settings of this thread, such as the promotion of dtypes.

    Args:
        program: the program.
        *arguments: the arguments, or their shapes and dtypes. An array that the call gets from the
            host must have no sharding here.
    """
    return program.function.lower(*arguments)  # type: ignore[attr-defined]


class EarlyCompilation:
    """Compiles one program in a thread.

    Example:
        >>> import jax, numpy as np
        >>> from nnx_alexnet.devices import SharedProgram
        >>> from nnx_alexnet.training.early_compilation import EarlyCompilation, lower
        >>> double = SharedProgram(jax.jit(lambda x: 2 * x))
        >>> compilation = EarlyCompilation()
        >>> compilation.start(lower(double, jax.ShapeDtypeStruct((2,), np.float32)))
        >>> compilation.wait()
        >>> double(np.ones(2, np.float32)).tolist()  # already compiled
        [2.0, 2.0]
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def start(self, lowered: Any) -> None:
        """Compiles a program in the thread.

        JAX then finds the program compiled when it is called with such arguments.

        Args:
            lowered: what `lower` returned for a program that has not been called yet.
        """
        self._thread = threading.Thread(target=_compile, args=(lowered,), name="compilation")
        self._thread.start()

    def wait(self) -> None:
        """Waits until the program is compiled."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def _compile(lowered: Any) -> None:
    try:
        lowered.compile()
    except Exception as error:  # the call of the program raises it again
        logger.debug("The program was not compiled in advance: %r", error)

"""Keeps freed memory in the process, which makes long steps on a CPU faster."""

from __future__ import annotations

import ctypes
import os
import platform

import jax

# The parameters of glibc's mallopt, from its malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Makes steps on a CPU reuse memory instead of returning it to the operating system.

    A step on the CPU allocates its temporary arrays (156 MB for `AlexNet` and 32 images) and
    frees them again. By default, glibc requests arrays of that size from the operating system
    each time, which must clear every page. Two settings prevent that:

    - glibc keeps freed memory.
    - JAX runs steps in the thread that dispatches them, which should be the main thread: glibc
      keeps no array of more than 64 MiB that another thread has freed. The host then waits for
      each step, so steps of less than a millisecond become slower. The environment variable
      `JAX_CPU_ENABLE_ASYNC_DISPATCH` overrides this setting.

    The settings affect the whole process, so a program should choose them rather than a library.
    The command `nnx-alexnet` calls this function for images of at least 32 pixels; your own script
    may call it before JAX's first computation. It starts JAX's backends. If the default one is not
    a CPU, glibc's settings do not change.

    Returns:
        Whether glibc keeps freed memory: False on an accelerator, or if the C library is not glibc.

    Example:
        >>> from nnx_alexnet.devices.host_memory import keep_freed_memory
        >>> keep_freed_memory() in (True, False)
        True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    if "JAX_CPU_ENABLE_ASYNC_DISPATCH" not in os.environ:
        jax.config.update("jax_cpu_enable_async_dispatch", False)  # read when the backend starts
    if jax.default_backend() != "cpu":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # M_ARENA_MAX=1 would keep the arrays of all threads, but its single lock makes compilation in
    # several threads up to twice as slow on two cores.
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**28}
    return all(mallopt(name, value) == 1 for name, value in settings.items())

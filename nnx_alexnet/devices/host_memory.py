"""Keeps freed memory in the process, which makes steps on a CPU faster."""

from __future__ import annotations

import ctypes
import platform

# The parameters of glibc's mallopt, from its malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Makes the C library keep freed memory instead of returning it to the operating system.

    A step on the CPU allocates its temporary arrays (156 MB for `AlexNet` and 32 images) and
    frees them again. By default, glibc requests arrays of that size from the operating system
    each time, which must clear every page.

    The setting affects the whole process, so programs should decide on it rather than libraries.
    The command `nnx-alexnet` calls this function; your own script may call it before JAX's first
    computation. Existing threads keep their arenas.

    Returns:
        Whether the setting was applied: False if the C library is not glibc.

    Example:
        >>> from nnx_alexnet.devices.host_memory import keep_freed_memory
        >>> keep_freed_memory() in (True, False)
        True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {
        _M_ARENA_MAX: 1,  # the arenas of other threads cannot hold arrays of more than 64 MiB
        _M_MMAP_MAX: 0,
        _M_TRIM_THRESHOLD: 2**31 - 1,
        _M_TOP_PAD: 2**28,
    }
    return all(mallopt(name, value) == 1 for name, value in settings.items())

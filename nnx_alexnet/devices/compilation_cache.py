"""Keeps compiled programs between processes, and measures the cost of compilation."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

import jax

from nnx_alexnet.support import format_count, logger

# Reading a program that compiles faster than this takes as long as compiling it. JAX's own limit of
# 1 s excludes many programs that take seconds together.
_MIN_SECONDS = 0.1
# Enough for about 30,000 programs for a CPU, which are compressed.
_MAX_BYTES = 2**30


class Compiled(NamedTuple):
    """The compilations of this process.

    Attributes:
        programs: number of programs that were requested.
        hits: number of those found in the cache.
        seconds: time that all of them took, including reads from the cache.
    """

    programs: int = 0
    hits: int = 0
    seconds: float = 0.0

    def since(self, before: Compiled) -> Compiled:
        """Returns the compilations since an earlier count.

        Example:
            >>> from nnx_alexnet.devices.compilation_cache import Compiled
            >>> Compiled(9, 4, 2.5).since(Compiled(5, 3, 1.0))
            Compiled(programs=4, hits=1, seconds=1.5)
        """
        return Compiled(
            self.programs - before.programs, self.hits - before.hits, self.seconds - before.seconds
        )


_total = Compiled()


def compiled() -> Compiled:
    """Returns the compilations since the first call of this or `use_compilation_cache`."""
    _listen()
    return _total


def use_compilation_cache() -> str | None:
    """Keeps compiled programs in the user's cache folder, where later processes find them.

    The folder is `nnx_alexnet/programs` in `$XDG_CACHE_HOME` (`~/.cache` if that is unset or a
    relative path). It has a subfolder for each kind of processor, since a program compiled for
    another one would not run. It may be deleted at any time. This function deletes the least
    recently used programs until the others take at most 1 GiB; if
    `JAX_COMPILATION_CACHE_MAX_SIZE` is set, JAX applies that limit instead, in a subfolder
    `limited`. If the program or `JAX_COMPILATION_CACHE_DIR` has already set a cache, that one is
    used as it is, and `JAX_ENABLE_COMPILATION_CACHE=false` disables caching.

    Returns:
        The folder in use; None if there is none.
    """
    _listen()
    if not _setting("jax_enable_compilation_cache"):
        return None
    if (given := _setting("jax_compilation_cache_dir")) is not None:
        return str(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # the XDG specification requires programs to ignore it
        cache = Path("~/.cache")
    folder = cache / "nnx_alexnet" / "programs" / _processor()
    limits_itself = "JAX_COMPILATION_CACHE_MAX_SIZE" in os.environ or (
        _setting("jax_compilation_cache_max_size") != -1
    )
    if limits_itself:
        folder /= "limited"  # JAX can only limit a folder if it has limited it from the start
    try:
        folder = folder.expanduser()  # raises a RuntimeError for a user without a home
        str(folder).encode()  # JAX accepts no other path
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK)
    except (OSError, RuntimeError, ValueError):
        usable = False
    if not usable:
        logger.info("Compiled programs are not cached: %s is not writable.", folder)
        return None
    if not limits_itself:
        _delete_least_recent(folder, _MAX_BYTES)
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()  # JAX decides at its first compilation, which may be over
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_SECONDS)
    return str(folder)


def describe(done: Compiled) -> str:
    """Returns a line for the log: number of programs, time, and how many were in the cache.

    Example:
        >>> from nnx_alexnet.devices.compilation_cache import Compiled, describe
        >>> describe(Compiled(programs=9, hits=9, seconds=0.51)).split(";")[0]
        'Compiled 9 programs in 0.5 s'
    """
    is_on = _setting("jax_enable_compilation_cache")
    folder = _setting("jax_compilation_cache_dir") if is_on else None
    where = "no cache" if folder is None else f"{done.hits} from the cache in {folder}"
    return f"Compiled {format_count(done.programs, 'program')} in {done.seconds:.1f} s; {where}"


@functools.cache
def _listen() -> None:
    def count(event: str, **_: object) -> None:
        global _total  # noqa: PLW0603  # JAX's listeners are global to the process
        if event == "/jax/compilation_cache/cache_hits":
            _total = _total._replace(hits=_total.hits + 1)

    def add(event: str, duration_secs: float, **_: object) -> None:
        global _total  # noqa: PLW0603
        if event == "/jax/core/compile/backend_compile_duration":
            _total = _total._replace(
                programs=_total.programs + 1, seconds=_total.seconds + duration_secs
            )

    jax.monitoring.register_event_listener(count)
    jax.monitoring.register_event_duration_secs_listener(add)


def _setting(name: str) -> Any:
    return getattr(jax.config, name)  # JAX defines it at run time; type checkers do not know it


def _delete_least_recent(folder: Path, max_bytes: int) -> None:
    """Deletes the least recently used files until the others take at most `max_bytes`.

    JAX's own limit examines all files each time it writes one, which takes 0.25 s for 5,000 files.
    A process that needs a deleted program compiles it again.
    """
    found = []
    for path in folder.glob("*-cache"):
        with contextlib.suppress(OSError):  # another process has deleted it
            stat = path.stat()
            # Some file systems do not record when a file was read.
            found.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
    excess = sum(size for _, size, _ in found) - max_bytes
    for _, size, path in sorted(found):
        if excess <= 0:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        excess -= size


def _processor() -> str:
    """Returns a name for this kind of processor; its features decide which programs run on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        features = next(line for line in lines if line.lower().startswith(("flags", "features")))
    except (OSError, StopIteration):
        features = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"

"""Compiled programs that are kept between processes, and what compiling has cost."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

import jax

from nnx_alexnet.support import logger

# Below this, reading a program takes as long as compiling it. JAX's own limit of 1 s leaves out the
# eight programs that draw AlexNet's weights, which take 7 s together on two cores.
_LEAST_SECONDS = 0.1


class Compiled(NamedTuple):
    """What this process has compiled so far.

    Attributes:
        programs: how many programs were asked for.
        hits: how many of them were in the cache.
        seconds: what all of them took, reading from the cache included.
    """

    programs: int = 0
    hits: int = 0
    seconds: float = 0.0

    def since(self, before: Compiled) -> Compiled:
        """Returns what was compiled after `before` was.

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
    """Returns what this process has compiled since this was first called, or a cache was set."""
    _listen()
    return _total


def use_compilation_cache() -> str | None:
    """Keeps compiled programs in the user's cache folder, where later processes find them.

    The folder is `nnx_alexnet/programs` in `$XDG_CACHE_HOME` (default, also for a relative path,
    `~/.cache`), with one folder in it for each kind of processor: a program for another one would
    not run. It may be deleted at any time. A cache that the program or
    `JAX_COMPILATION_CACHE_DIR` has set is left as it is, and
    `JAX_ENABLE_COMPILATION_CACHE=false` turns all of them off.

    Returns:
        The folder in use; None if there is none.
    """
    _listen()
    if not _setting("jax_enable_compilation_cache"):
        return None
    if (given := _setting("jax_compilation_cache_dir")) is not None:
        return str(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # which its specification tells programs to ignore
        cache = Path("~/.cache")
    folder = cache / "nnx_alexnet" / "programs" / _processor()
    try:
        folder = folder.expanduser()  # RuntimeError: a user without a home
        str(folder).encode()  # JAX takes no other path
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK)
    except (OSError, RuntimeError, ValueError):
        usable = False
    if not usable:
        logger.info("Compiled programs are not kept: %s cannot be written.", folder)
        return None
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()  # JAX decides at the first compilation, which may have been
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
    return str(folder)


def describe(done: Compiled) -> str:
    """Returns a line for the log: how many programs, how long, and where they came from.

    Example:
        >>> from nnx_alexnet.devices.compilation_cache import Compiled, describe
        >>> describe(Compiled(programs=9, hits=9, seconds=0.51)).split(";")[0]
        'Compiled 9 programs in 0.5 s'
    """
    is_on = _setting("jax_enable_compilation_cache")
    folder = _setting("jax_compilation_cache_dir") if is_on else None
    where = "no cache" if folder is None else f"{done.hits} from the cache in {folder}"
    return f"Compiled {done.programs} programs in {done.seconds:.1f} s; {where}"


@functools.cache
def _listen() -> None:
    def count(event: str, **_: object) -> None:
        global _total  # noqa: PLW0603  # JAX's listeners are the process's, and so is this
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
    return getattr(jax.config, name)  # defined at run time, which no type checker sees


def _processor() -> str:
    """Returns a name for this kind of processor: what it can do decides which programs run."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        features = next(line for line in lines if line.lower().startswith(("flags", "features")))
    except (OSError, StopIteration):
        features = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"

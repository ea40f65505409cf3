"""Joins the processes of a job, on one machine or several, by `jax.distributed`."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

import jax

from nnx_alexnet.devices.coordinator import (
    check_members,
    check_port_is_free,
    wait_until_reachable,
)
from nnx_alexnet.devices.launchers import Launcher, find_launcher
from nnx_alexnet.support import MessageFormatter, check_integer, logger, settle_streams

ExceptHook = Callable[[type[BaseException], BaseException, TracebackType | None], Any]


def initialize_distributed(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: int = 300,
    heartbeat_timeout: int = 30,
) -> bool:
    """Joins the other processes of this job, if there are any. Call it first in a program.

    It calls `jax.distributed.initialize` with the given arguments, or with those that SLURM, Open
    MPI or Kubernetes provide. Afterwards `jax.devices()` contains the devices of all processes,
    and `Trainer` trains on all of them. If a process dies, or fails with an uncaught exception,
    the others end within `heartbeat_timeout`.

    Args:
        coordinator: address of process 0 as `host:port`, where it listens (default: from the
            environment, including `JAX_COORDINATOR_ADDRESS`).
        num_processes: number of processes of the job (default: from the environment; 1 joins
            nothing).
        process_id: number of this process, from 0 (default: from the environment).
        timeout: seconds within which all processes must have joined.
        heartbeat_timeout: seconds after which a silent process counts as dead.

    Returns:
        Whether there are other processes.

    Raises:
        ValueError: an argument is missing or out of range, or the address cannot be listened on.
        TimeoutError: the coordinator could not be reached.
        RuntimeError: JAX has already been used, so it is too late.

    Example:
        >>> from nnx_alexnet import initialize_distributed
        >>> initialize_distributed()  # no cluster reports other processes
        False
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        return False  # a data worker, which imports the program and repeats this call
    if jax.distributed.is_initialized():  # by Ray, for instance
        return _has_others()
    launcher = find_launcher()
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if launcher is None and coordinator is None and num_processes is None:
        return False
    launcher = launcher or Launcher()
    num_processes = launcher.num_processes if num_processes is None else num_processes
    process_id = launcher.process_id if process_id is None else process_id
    if num_processes == 1:
        return False
    for name, value in (("timeout", timeout), ("heartbeat_timeout", heartbeat_timeout)):
        check_integer(name, value, reason="it is a number of seconds")
    if coordinator is not None or not launcher.is_known_to_jax:
        check_members(coordinator, num_processes, process_id)
    # Its handler would swallow the SIGTERM that asks a run to save and stop.
    jax.config.update("jax_enable_preemption_service", False)
    sys.excepthook = _leaving_at_once(sys.excepthook)
    _meet(coordinator, num_processes, process_id, timeout)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            launcher.local_device_ids,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=heartbeat_timeout,
        )
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"`coordinator` (={coordinator!r}) does not let process {process_id} join: "
            f"{str(error).splitlines()[0]}. It must be a free port of the machine that runs "
            "process 0, and each `process_id` joins once."
        ) from error
    return _has_others()


def _meet(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: int
) -> None:
    """Checks a given address: whether process 0 can listen there, and the others reach it."""
    if coordinator is None:
        return
    if process_id != 0:
        wait_until_reachable(coordinator, timeout)
        return
    check_port_is_free(coordinator)
    logger.info(
        "Waiting at %s for %s processes, %d s at most.", coordinator, num_processes, timeout
    )


def _has_others() -> bool:
    """Whether there are other processes; silences info logs in all but the first."""
    if jax.process_index() > 0:
        logger.setLevel(logging.WARNING)
        for handler in logger.handlers:
            form = f"[process {jax.process_index()}] %(message)s"
            handler.setFormatter(MessageFormatter(form))
    return bool(jax.process_count() > 1)


def _leaving_at_once(before: ExceptHook) -> ExceptHook:
    """Returns a hook for uncaught exceptions that ends the process at once.

    Otherwise it would wait at its exit for the other processes, which wait for it within a step.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        with contextlib.suppress(Exception):  # standard error may be missing or broken
            before(kind, error, trace)
        leave(130 if issubclass(kind, KeyboardInterrupt) else 1)

    return hook


def leave(status: int) -> None:
    """Ends this process without waiting for the others, which then end as well.

    Args:
        status: exit status of the process.
    """
    logging.shutdown()
    settle_streams()
    os._exit(status)

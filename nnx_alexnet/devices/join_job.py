"""Joining the processes of a job, on one machine or on many: `jax.distributed`, made ready."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import jax

from nnx_alexnet.support import MessageFormatter, check_integer, logger, settle_streams

_PAUSE = 0.5  # seconds between two tries to reach the coordinator


def initialize_distributed(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: int = 300,
    heartbeat_timeout: int = 30,
) -> bool:
    """Joins the other processes of this job, if there are any; the first thing a program does.

    It calls `jax.distributed.initialize` with the arguments given, or with what SLURM, Open MPI
    or Kubernetes say of the job. Afterwards `jax.devices()` are those of all processes, and
    `Trainer` trains on all of them. A process that dies, or fails with an exception that nothing
    catches, ends the others within `heartbeat_timeout`.

    Args:
        coordinator: address of process 0, as `host:port`, on which it listens (default: the
            environment's, also `JAX_COORDINATOR_ADDRESS`).
        num_processes: processes of the job (default: the environment's; 1 joins nothing).
        process_id: number of this one, from 0 (default: the environment's).
        timeout: seconds in which all must have come.
        heartbeat_timeout: seconds after which a silent process counts as dead.

    Returns:
        Whether there are other processes.

    Raises:
        ValueError: an argument is missing or out of range, or the address cannot be listened on.
        TimeoutError: the coordinator could not be reached.
        RuntimeError: JAX has already been used, so it is too late.

    Example:
        >>> from nnx_alexnet import initialize_distributed
        >>> initialize_distributed()  # no cluster says that there are others
        False
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        return False  # a data worker imports the program once more, and with it this call
    if jax.distributed.is_initialized():  # by Ray, for instance
        return _joined()
    found = _environment()
    if num_processes is None:
        num_processes = found.get("num_processes")
    if process_id is None:
        process_id = found.get("process_id")
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if num_processes == 1 or (coordinator is None and num_processes is None and not found):
        return False
    for name, value in (("timeout", timeout), ("heartbeat_timeout", heartbeat_timeout)):
        check_integer(name, value, reason="it is a number of seconds")
    if coordinator is not None or "detected" not in found:
        _check(coordinator, num_processes, process_id)
    # Its handler would swallow the SIGTERM that a run takes as the request to save and stop.
    jax.config.update("jax_enable_preemption_service", False)
    sys.excepthook = _leaving_at_once(sys.excepthook)
    if coordinator is not None and process_id != 0:
        _wait_for(coordinator, timeout)
    if coordinator is not None and process_id == 0:
        _check_free(coordinator)
        logger.info(
            "Waiting at %s for %s processes, %d s at most.", coordinator, num_processes, timeout
        )
    arguments: dict[str, Any] = {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
        "local_device_ids": found.get("local_device_ids"),
    }
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=heartbeat_timeout,
        )
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"`coordinator` (={coordinator!r}) does not let process {process_id} join: "
            f"{str(error).splitlines()[0]}. It must be a free port of the machine that runs "
            "process 0, and each `process_id` joins once."
        ) from error
    return _joined()


def _joined() -> bool:
    """Returns whether there are others, of whom the first alone says what all know."""
    if jax.process_index() > 0:
        logger.setLevel(logging.WARNING)
        for handler in logger.handlers:
            form = f"[process {jax.process_index()}] %(message)s"
            handler.setFormatter(MessageFormatter(form))
    return bool(jax.process_count() > 1)


def _environment() -> dict[str, Any]:
    """Returns what the launcher says of this process: `detected` if JAX finds the rest itself."""
    says = os.environ
    # SLURM_NTASKS is that of the allocation in the shell of `salloc`, which is a step of one task.
    tasks = int(says.get("SLURM_STEP_NUM_TASKS", says.get("SLURM_NTASKS", 1)))
    if "SLURM_STEP_NODELIST" in says and tasks > 1:
        return {
            "detected": "slurm", "num_processes": tasks, "process_id": int(says["SLURM_PROCID"])
        }  # fmt: skip
    if int(says.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        numbers = {
            "num_processes": int(says["OMPI_COMM_WORLD_SIZE"]),
            "process_id": int(says["OMPI_COMM_WORLD_RANK"]),
        }
        if "OMPI_MCA_orte_hnp_uri" in says:
            return {"detected": "ompi", **numbers}
        # Open MPI 5 does not say where process 0 runs.
        return {**numbers, "local_device_ids": [int(says["OMPI_COMM_WORLD_LOCAL_RANK"])]}
    is_indexed = "KUBERNETES_SERVICE_HOST" in says and "JOB_COMPLETION_INDEX" in says
    if is_indexed and importlib.util.find_spec("kubernetes") is not None:
        return {"detected": "k8s"}
    return {}


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    given = {
        "coordinator": coordinator, "num_processes": num_processes, "process_id": process_id
    }  # fmt: skip
    if missing := [name for name, value in given.items() if value is None]:
        raise ValueError(
            f"`{'`, `'.join(missing)}` must be given: the environment (SLURM, Open MPI before 5, "
            "Kubernetes with the package `kubernetes`) does not say. One process of two: "
            'coordinator="10.0.0.1:1234", num_processes=2, process_id=0.'
        )
    assert coordinator is not None
    assert num_processes is not None
    assert process_id is not None
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(
            f"`coordinator` (={coordinator!r}) must be the address of process 0 with a port, such "
            "as 10.0.0.1:1234."
        )
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ValueError(
            f"`process_id` (={process_id}) must be from 0 to one less than `num_processes` "
            f"(={num_processes})."
        )


def _check_free(coordinator: str) -> None:
    """Raises unless this process can listen; JAX itself would end the program with a crash."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    port = int(coordinator.rpartition(":")[2])
    try:
        with socket.socket(family) as listener:
            # An earlier job may have left connections that are closing, which do not matter.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(("", port))
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(
            f"`coordinator` (={coordinator!r}) cannot be used by process 0 to listen on: {why}. "
            "It must be a free port of the machine that runs process 0."
        ) from error


def _wait_for(coordinator: str, timeout: int) -> None:
    """Waits until the coordinator listens; JAX itself would abort the program if it never does."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        left = end - time.monotonic()
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=max(0.1, left)).close()
        except OSError as error:  # a name that is not known yet, a port that nobody listens on
            if time.monotonic() + _PAUSE > end:
                raise TimeoutError(
                    f"`coordinator` (={coordinator!r}) could not be reached in {timeout} s: "
                    f"{error}. Process 0 listens there from its start; is it running, and is the "
                    "port open between the machines?"
                ) from error
            time.sleep(_PAUSE)
        else:
            return


def _leaving_at_once(
    before: Callable[[type[BaseException], BaseException, TracebackType | None], Any],
) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """Returns a hook for exceptions that nothing catches, after which the process is gone.

    Otherwise it would wait at its exit for the others, who wait for it in the middle of a step.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        with contextlib.suppress(Exception):  # standard error may be missing or broken
            before(kind, error, trace)
        leave(130 if issubclass(kind, KeyboardInterrupt) else 1)

    return hook


def leave(status: int) -> None:
    """Ends this process without waiting for the others, who then end as well."""
    logging.shutdown()
    settle_streams()
    os._exit(status)

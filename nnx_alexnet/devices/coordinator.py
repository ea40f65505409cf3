"""The address of process 0, where all processes of a job meet, checked before JAX uses it.

JAX would abort the program, without a Python error, if the address does not work.
"""

from __future__ import annotations

import socket
import time

_PAUSE = 0.5  # seconds between two attempts to reach the coordinator


def check_members(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Raises a `ValueError` unless the arguments tell who joins whom."""
    given = {
        "coordinator": coordinator, "num_processes": num_processes, "process_id": process_id
    }  # fmt: skip
    if missing := [name for name, value in given.items() if value is None]:
        raise ValueError(
            f"`{'`, `'.join(missing)}` must be given: the environment (SLURM, Open MPI before 5, "
            "Kubernetes with the package `kubernetes`) does not provide it. One process of two: "
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


def check_port_is_free(coordinator: str) -> None:
    """Raises a `ValueError` unless this process can listen at the address.

    Args:
        coordinator: a host and a port, such as "10.0.0.1:1234".
    """
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    port = int(coordinator.rpartition(":")[2])
    try:
        with socket.socket(family) as listener:
            # Connections of an earlier job that are still closing do not matter.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(("", port))
    except (OSError, OverflowError) as error:
        why = str(getattr(error, "strerror", None) or error).removesuffix(".")
        raise ValueError(
            f"`coordinator` (={coordinator!r}) cannot be used by process 0 to listen on: {why}. "
            "It must be a free port of the machine that runs process 0."
        ) from error


def wait_until_reachable(coordinator: str, timeout: int) -> None:
    """Waits until process 0 listens at the address.

    Args:
        coordinator: a host and a port.
        timeout: seconds to wait at most.

    Raises:
        TimeoutError: nobody listened there in time.
    """
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        left = end - time.monotonic()
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=max(0.1, left)).close()
        except OSError as error:  # an unknown name, or nobody listens on the port
            if time.monotonic() + _PAUSE > end:
                raise TimeoutError(
                    f"`coordinator` (={coordinator!r}) could not be reached in {timeout} s: "
                    f"{error}. Process 0 listens there from its start; is it running, and is the "
                    "port open between the machines?"
                ) from error
            time.sleep(_PAUSE)
        else:
            return

"""What the launcher of a job (SLURM, Open MPI, Kubernetes) tells each process about it."""

from __future__ import annotations

import importlib.util
import os
from typing import NamedTuple


class Launcher(NamedTuple):
    """What a launcher reveals about the job.

    Attributes:
        num_processes: number of processes of the job; None if unknown.
        process_id: number of this process; None if unknown.
        local_device_ids: the devices that this process uses; None for all of its machine.
        is_known_to_jax: whether `jax.distributed` finds out everything else, including the
            address of process 0.
    """

    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: list[int] | None = None
    is_known_to_jax: bool = False


def find_launcher() -> Launcher | None:
    """Returns what the environment reveals about a job of several processes, or None."""
    return _slurm() or _open_mpi() or _kubernetes()


def _slurm() -> Launcher | None:
    # The shell of `salloc` is a step of one task, but SLURM_NTASKS counts the whole allocation.
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", os.environ.get("SLURM_NTASKS", "1")))
    if "SLURM_STEP_NODELIST" not in os.environ or tasks <= 1:
        return None
    return Launcher(tasks, int(os.environ["SLURM_PROCID"]), is_known_to_jax=True)


def _open_mpi() -> Launcher | None:
    size = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
    if size <= 1:
        return None
    rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
    if "OMPI_MCA_orte_hnp_uri" in os.environ:
        return Launcher(size, rank, is_known_to_jax=True)
    # Open MPI 5 does not reveal where process 0 runs.
    return Launcher(size, rank, [int(os.environ["OMPI_COMM_WORLD_LOCAL_RANK"])])


def _kubernetes() -> Launcher | None:
    is_indexed = "KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" in os.environ
    if is_indexed and importlib.util.find_spec("kubernetes") is not None:
        return Launcher(is_known_to_jax=True)
    return None

"""What SLURM, Open MPI and Kubernetes reveal about a job."""

import importlib.util
import os

import pytest

from nnx_alexnet.devices.launchers import Launcher, find_launcher


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("SLURM_", "OMPI_", "KUBERNETES_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def found(monkeypatch):
    """Returns what is found in an environment with these variables."""

    def find(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return find_launcher()

    return find


def test_no_launcher_is_found_in_a_plain_environment(found):
    assert found() is None


def test_a_batch_script_of_slurm_is_not_part_of_a_job_step(found):
    assert found(SLURM_NTASKS="8") is None


def test_a_job_step_of_slurm_is_found(found):
    step = {"SLURM_NTASKS": "8", "SLURM_STEP_NODELIST": "node[01-02]", "SLURM_PROCID": "5"}
    assert found(**step) == Launcher(8, 5, is_known_to_jax=True)


def test_the_shell_of_salloc_is_a_step_of_one_task(found):
    shell = {"SLURM_NTASKS": "8", "SLURM_STEP_NODELIST": "node01", "SLURM_PROCID": "0"}
    assert found(**shell, SLURM_STEP_NUM_TASKS="1") is None


OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}


def test_open_mpi_5_reveals_numbers_but_no_address(found):
    assert found(**OPEN_MPI) == Launcher(4, 3, [1])


def test_jax_finds_the_address_of_older_open_mpi(found):
    address = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}
    assert found(**OPEN_MPI, **address) == Launcher(4, 3, is_known_to_jax=True)


@pytest.mark.parametrize("is_installed", [True, False])
def test_kubernetes_needs_its_python_package(found, monkeypatch, is_installed):
    spec = object() if is_installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    expected = Launcher(is_known_to_jax=True) if is_installed else None
    assert found(KUBERNETES_SERVICE_HOST="10.0.0.1", JOB_COMPLETION_INDEX="2") == expected

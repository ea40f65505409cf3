"""The mesh that the argument `devices` describes."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from nnx_alexnet.devices.mesh import describe_mesh, make_mesh


@pytest.mark.parametrize("number", [1, 2, 8])
def test_the_first_devices_form_one_axis(number):
    mesh = make_mesh(number)
    assert dict(mesh.shape) == {"data": number}
    assert list(mesh.devices.flat) == jax.local_devices()[:number]
    assert describe_mesh(mesh) == f"data {number}"


@pytest.mark.parametrize("number", [0, -1, 9, 2.0, True, "all", None, ("data", "model")])
def test_a_number_of_devices_that_do_not_exist_is_refused(number):
    with pytest.raises(
        ValueError, match=r"`devices` \(=.*must be an integer from 1 to 8 or 'auto': this"
    ):
        make_mesh(number)


@pytest.mark.parametrize("default", [3, "cpu"])
def test_auto_uses_only_the_default_device_if_one_is_set(default):
    device = default if isinstance(default, str) else jax.devices()[default]
    with jax.default_device(device):
        used = list(make_mesh("auto").devices.flat)
    assert used == [jax.devices()[0 if default == "cpu" else default]]


def test_auto_uses_all_devices_without_a_default():
    code = (
        "from nnx_alexnet.devices import Placement\n"
        "print(Placement().describe(), Placement().num_devices)"
    )
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[0] == "data 3 3"


@pytest.mark.parametrize(
    "mesh",
    [
        {"data": 2, "model": 4},
        jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2),
        jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2),
        Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model")),
    ],
    ids=["sizes", "auto axes", "explicit axes", "devices"],
)
def test_the_compiler_divides_all_axes_of_a_given_mesh(mesh):
    made = make_mesh(mesh)
    assert dict(made.shape) == {"data": 2, "model": 4}
    assert set(made.axis_types) == {AxisType.Auto}
    assert describe_mesh(made) == "data 2 x model 4"


def test_a_mesh_keeps_the_order_of_its_devices():
    devices = np.array(jax.devices()[::-1]).reshape(4, 2)
    made = make_mesh(Mesh(devices, ("data", "model")))
    assert made.devices.tolist() == devices.tolist()


def test_sizes_may_leave_devices_unused():
    assert make_mesh({"data": 1, "model": 2}).size == 2


@pytest.mark.parametrize("mesh", [{"model": 2}, jax.make_mesh((2,), ("model",)), {}])
def test_a_mesh_without_the_data_axis_is_refused(mesh):
    with pytest.raises(ValueError, match=r"`devices` has the axes .* lacks the axis 'data'"):
        make_mesh(mesh)


def test_a_mesh_larger_than_the_machine_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="needs 16 devices, but there are 8"):
        make_mesh({"data": 4, "model": 4})


@pytest.mark.parametrize("size", [0, -2, 2.0, True, "2"])
def test_an_axis_size_that_is_no_positive_integer_is_refused(size):
    with pytest.raises(ValueError, match=r"`devices\['data'\]` \(=.*\) must be a positive integer"):
        make_mesh({"data": size})


def test_a_process_without_devices_is_reported(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(ValueError, match=r"`devices` \(=2\) has no device of the processes \[1, 2"):
        make_mesh(2)
    with pytest.raises(ValueError, match=r"`devices` \(=\{'data': 2\}\) has no device of"):
        make_mesh({"data": 2})

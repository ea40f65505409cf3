"""Which devices a run takes, and what of it each of them holds."""

import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from nnx_alexnet.devices.sharding import Placement


def parameter(shape, *axes, kind=nnx.Param):
    """A parameter, split by its metadata over the named axes of its dimensions."""
    metadata = {"out_sharding": axes, "eager_sharding": False} if axes else {}
    return kind(np.zeros(shape, np.float32), **metadata)


def specs(placement, *variables):
    """The specs of a state of these variables, in their order."""
    state = nnx.State({f"v{number}": variable for number, variable in enumerate(variables)})
    return [sharding.spec for sharding in placement.shardings(state)]


# ---- The devices ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 8])
def test_so_many_devices_share_the_batch(number):
    placement = Placement(number)
    assert dict(placement.mesh.shape) == {"data": number}
    assert list(placement.mesh.devices.flat) == jax.local_devices()[:number]
    assert placement.num_devices == placement.num_parts == number
    assert placement.describe() == f"data {number}"


@pytest.mark.parametrize("number", [0, -1, 9, 2.0, True, "all", None])
def test_a_number_of_devices_that_there_are_not_is_refused(number):
    with pytest.raises(
        ValueError, match=r"`devices` \(=.*must be an integer from 1 to 8 or 'auto': this"
    ):
        Placement(number)


@pytest.mark.parametrize("default", [3, "cpu"])
def test_auto_takes_the_default_device_alone_if_one_is_set(default):
    device = default if isinstance(default, str) else jax.devices()[default]
    with jax.default_device(device):
        taken = list(Placement().mesh.devices.flat)
    assert taken == [jax.devices()[0 if default == "cpu" else default]]


def test_auto_takes_all_devices_where_no_default_is_set():
    code = (
        "from nnx_alexnet.placement import Placement\n"
        "print(Placement().describe(), Placement().num_devices)"
    )
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[0] == "data 3 3"


# ---- The mesh ------------------------------------------------------------------------------


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
def test_a_mesh_or_its_sizes_name_the_axes_which_the_compiler_divides(mesh):
    placement = Placement(mesh=mesh)
    assert dict(placement.mesh.shape) == {"data": 2, "model": 4}
    assert set(placement.mesh.axis_types) == {AxisType.Auto}
    assert (placement.num_devices, placement.num_parts) == (8, 2)
    assert placement.describe() == "data 2 x model 4"


def test_a_mesh_keeps_the_order_of_its_devices():
    devices = np.array(jax.devices()[::-1]).reshape(4, 2)
    placement = Placement(mesh=Mesh(devices, ("data", "model")))
    assert placement.mesh.devices.tolist() == devices.tolist()


def test_sizes_may_leave_devices_over():
    assert Placement(mesh={"data": 1, "model": 2}).num_devices == 2


@pytest.mark.parametrize("mesh", [{"model": 2}, jax.make_mesh((2,), ("model",)), {}])
def test_a_mesh_without_the_axis_of_the_batch_is_refused(mesh):
    with pytest.raises(ValueError, match=r"`mesh` has the axes .* lacks the axis 'data'"):
        Placement(mesh=mesh)


def test_devices_and_a_mesh_are_not_given_together():
    with pytest.raises(ValueError, match=r"`devices` \(=2\) and `mesh` \(=.*give one of them"):
        Placement(2, {"data": 2})


def test_a_mesh_of_more_devices_than_there_are_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="takes 16 devices, there are 8"):
        Placement(mesh={"data": 4, "model": 4})


@pytest.mark.parametrize("size", [0, -2, 2.0, True, "2"])
def test_a_size_that_is_no_positive_integer_is_refused(size):
    with pytest.raises(ValueError, match=r"`mesh\['\w+'\]` \(=.*\) must be a positive integer"):
        Placement(mesh={"data": size})


@pytest.mark.parametrize("mesh", [4, ("data", "model"), "data"])
def test_what_is_no_mesh_is_refused(mesh):
    with pytest.raises(TypeError, match=r"`mesh` \(=.*must be a jax.sharding.Mesh"):
        Placement(mesh=mesh)


# ---- Batches -------------------------------------------------------------------------------


@given(st.integers(1, 8), st.integers(1, 1000))
def test_a_padded_batch_splits_with_the_fewest_rows_added(parts, size):
    placement = Placement(parts)
    padded = placement.padded(size)
    assert size <= padded < size + parts
    placement.check_batch_size(padded)


@given(st.integers(1, 8), st.integers(1, 1000))
def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_sizes_that_do(parts, size):
    placement = Placement(parts)
    if size % parts == 0:
        placement.check_batch_size(size)
        return
    with pytest.raises(ValueError, match="`batch_size`") as error:
        placement.check_batch_size(size)
    text = str(error.value)
    assert f"`batch_size` (={size})" in text
    assert f"the {parts} parts" in text
    nearest = [int(n) for n in re.search(r"work are ([\d or]+);", text)[1].split(" or ")]
    assert nearest == [n for n in (size - size % parts, size - size % parts + parts) if n]


def test_only_the_axis_of_the_batch_counts_for_its_size():
    Placement(mesh={"data": 2, "model": 4}).check_batch_size(6)


def test_one_process_reads_all_rows():
    assert Placement(4).rows(8) is None


@pytest.mark.parametrize("stacked", [False, True])
def test_each_device_gets_its_rows_of_a_batch(stacked):
    rows = np.arange(24).reshape(3, 8) if stacked else np.arange(8)
    sent = Placement(mesh={"data": 4, "model": 2}).send({"x": rows}, 8, stacked=stacked)["x"]
    np.testing.assert_array_equal(sent, rows)
    assert len(sent.addressable_shards) == 8
    assert all(shard.data.shape[-1] == 2 for shard in sent.addressable_shards)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("size", [1, 3, 6, 9])
def test_a_batch_that_does_not_divide_lies_whole_on_each_device(size, stacked):
    placement = Placement(mesh={"data": 4, "model": 2})
    rows = np.arange(3 * size).reshape(3, size) if stacked else np.arange(size)
    sent = placement.send({"x": rows}, size, stacked=stacked)["x"]
    np.testing.assert_array_equal(sent, rows)
    assert sent.sharding == placement.of_batch(size, stacked=stacked) == placement.replicated
    assert len(sent.addressable_shards) == 8
    assert placement.rows(size) is None


@pytest.mark.parametrize(("size", "spec"), [(8, P("data")), (4, P("data")), (6, P())])
def test_only_the_axis_of_the_batch_decides_whether_it_is_split(size, spec):
    placement = Placement(mesh={"data": 4, "model": 2})
    assert placement.of_batch(size).spec == spec
    assert placement.of_batch(size, stacked=True).spec == (P(None, *spec) if spec else P())


# ---- The model's state ---------------------------------------------------------------------


def test_metadata_say_what_is_split_over_which_axis():
    placement = Placement(mesh={"data": 2, "model": 4})
    assert specs(
        placement,
        parameter((6, 8), None, "model"),
        parameter((8, 6), "model", None),
        parameter((8,), "model"),
        parameter((8, 8)),
        parameter((8, 3), ("data", "model")),
    ) == [P(None, "model"), P("model"), P("model"), P(), P(("data", "model"))]


@pytest.mark.parametrize("mesh", [{"data": 2}, {"data": 2, "expert": 2}])
def test_an_axis_that_the_mesh_lacks_splits_nothing(mesh):
    # 7 columns divide by nothing, and need not.
    split = parameter((6, 7), None, "model"), parameter((8, 6), ("model", "data"), None)
    assert specs(Placement(mesh=mesh), *split) == [P(), P("data")]


def test_a_dimension_that_does_not_divide_is_refused_with_the_name_of_the_parameter():
    state = nnx.state(nnx.Linear(
        4, 6, rngs=nnx.Rngs(0),
        kernel_metadata={"out_sharding": (None, "model"), "eager_sharding": False},
    ))  # fmt: skip
    with pytest.raises(ValueError, match=r"splits `kernel` of shape \(4, 6\).*6 is not a multiple"):
        Placement(mesh={"data": 2, "model": 4}).shardings(state)


def test_what_an_optimizer_keeps_in_another_shape_than_its_parameter_stays_whole():
    placement = Placement(mesh={"data": 1, "model": 4})
    kept = [
        parameter(shape, None, "model", kind=nnx.optimizer.OptState)
        for shape in [(4, 8), (1, 1), (4,), ()]
    ]
    assert specs(placement, *kept) == [P(None, "model"), P(), P(), P()]


def test_an_axis_over_which_nothing_is_split_is_refused_with_those_that_are_named():
    state = nnx.State({"kernel": parameter((8, 8), None, "tensor")})
    with pytest.raises(ValueError, match=r"an axis 'model' of 2 devices .* name \['tensor'\]"):
        Placement(mesh={"data": 2, "model": 2}).check_axes(state)
    with pytest.raises(ValueError, match="of its parameters name none"):
        Placement(mesh={"data": 2, "model": 2}).check_axes(nnx.State({"k": parameter((8, 8))}))
    Placement(mesh={"data": 2, "tensor": 2}).check_axes(state)
    Placement(mesh={"data": 2, "model": 1}).check_axes(state)


@pytest.mark.parametrize(
    ("variable", "spec"),
    [
        (parameter((64, 128)), P(None, "data")),
        (parameter((128, 64)), P("data")),
        (parameter((64, 64)), P("data")),  # of equals the first
        (parameter((129, 64)), P(None, "data")),  # the longest that divides
        (parameter((64, 128), None, "model"), P("data", "model")),  # the longest that is free
        (parameter((63, 128), None, "model"), P(None, "model")),
        (parameter((31, 33)), P()),
        (parameter((1024,)), P("data")),
        (parameter((1020,)), P()),  # too small to be worth it
        (parameter(()), P()),
        (parameter((128, 64), "data", None), P("data")),  # it is split over it already
    ],
)
def test_a_split_state_is_split_along_its_longest_free_dimension(variable, spec):
    placement = Placement(mesh={"data": 4, "model": 2}, shard_state=True)
    assert specs(placement, variable) == [spec]


def test_a_state_over_one_part_of_the_batch_stays_whole():
    placement = Placement(mesh={"data": 1, "model": 2}, shard_state=True)
    assert specs(placement, parameter((64, 128))) == [P()]


@st.composite
def split_parameters(draw):
    """A mesh, and a parameter whose metadata fit to it, each axis named once at most."""
    sizes = draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (4, 2), (2, 4), (8, 1), (1, 8)]))
    rank = draw(st.integers(0, 4))
    shape = [draw(st.integers(1, 5)) * draw(st.sampled_from([1, 8])) for _ in range(rank)]
    axes = [None] * draw(st.integers(0, rank))
    for axis in draw(st.permutations(["data", "model", "absent"])):
        if axes and draw(st.booleans()):
            number = draw(st.integers(0, len(axes) - 1))
            axes[number] = (*(axes[number] or ()), axis)
    by_name = {"data": sizes[0], "model": sizes[1], "absent": 1}
    for number, entry in enumerate(axes):
        shape[number] *= int(np.prod([by_name[axis] for axis in entry or ()]))
        if entry and len(entry) == 1 and draw(st.booleans()):
            axes[number] = entry[0]
    return {"data": sizes[0], "model": sizes[1]}, tuple(shape), tuple(axes)


@settings(deadline=None)  # the first transfer takes a second
@given(split_parameters(), st.booleans())
def test_every_sharding_divides_can_be_sent_and_keeps_what_the_metadata_say(case, shard_state):
    mesh, shape, axes = case
    placement = Placement(mesh=mesh, shard_state=shard_state)
    variable = parameter(shape, *axes)
    (sharding,) = placement.shardings(nnx.State({"w": variable}))
    part = sharding.shard_shape(shape)  # raises unless each dimension divides
    named = [axis for entry in axes for axis in (entry if isinstance(entry, tuple) else [entry])]
    least = int(np.prod([mesh.get(axis, 1) for axis in named if axis]))
    assert int(np.prod(shape)) // int(np.prod(part)) >= least
    for length, size, entry in zip(shape, part, [*axes, *[None] * len(shape)], strict=False):
        mine = entry if isinstance(entry, tuple) else [entry]
        over = int(np.prod([mesh.get(axis, 1) for axis in mine if axis]))
        assert length // size in {over, over * mesh["data"]}
    value = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    sent = jax.device_put(value, sharding)
    np.testing.assert_array_equal(sent, value)
    (whole,) = placement.gathered(nnx.State({"w": variable}))
    assert np.prod(whole.shard_shape(shape)) >= np.prod(part)

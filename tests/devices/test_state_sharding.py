"""How parameters and optimizer state are split over the axes of a mesh."""

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
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


def test_metadata_name_the_axis_that_splits_each_dimension():
    placement = Placement({"data": 2, "model": 4})
    assert specs(
        placement,
        parameter((6, 8), None, "model"),
        parameter((8, 6), "model", None),
        parameter((8,), "model"),
        parameter((8, 8)),
        parameter((8, 3), ("data", "model")),
    ) == [P(None, "model"), P("model"), P("model"), P(), P(("data", "model"))]


@pytest.mark.parametrize("mesh", [{"data": 2}, {"data": 2, "expert": 2}])
def test_an_axis_missing_from_the_mesh_splits_nothing(mesh):
    # 7 columns do not divide by anything, and need not.
    split = parameter((6, 7), None, "model"), parameter((8, 6), ("model", "data"), None)
    assert specs(Placement(mesh), *split) == [P(), P("data")]


def test_an_uneven_dimension_is_refused_with_the_parameter_name():
    state = nnx.state(nnx.Linear(
        4, 6, rngs=nnx.Rngs(0),
        kernel_metadata={"out_sharding": (None, "model"), "eager_sharding": False},
    ))  # fmt: skip
    with pytest.raises(ValueError, match=r"splits `kernel` of shape \(4, 6\).*6 is not a multiple"):
        Placement({"data": 2, "model": 4}).shardings(state)


def test_optimizer_state_of_another_shape_than_its_parameter_is_replicated():
    placement = Placement({"data": 1, "model": 4})
    kept = [
        parameter(shape, None, "model", kind=nnx.optimizer.OptState)
        for shape in [(4, 8), (1, 1), (4,), ()]
    ]
    assert specs(placement, *kept) == [P(None, "model"), P(), P(), P()]


def test_an_axis_that_splits_nothing_is_refused():
    state = nnx.State({"kernel": parameter((8, 8), None, "tensor")})
    with pytest.raises(ValueError, match=r"an axis 'model' of 2 devices .* name \['tensor'\]"):
        Placement({"data": 2, "model": 2}).check_axes(state)
    with pytest.raises(ValueError, match="of its parameters name none"):
        Placement({"data": 2, "model": 2}).check_axes(nnx.State({"k": parameter((8, 8))}))
    Placement({"data": 2, "tensor": 2}).check_axes(state)
    Placement({"data": 2, "model": 1}).check_axes(state)


@pytest.mark.parametrize(
    ("variable", "spec"),
    [
        (parameter((64, 128)), P(None, "data")),
        (parameter((128, 64)), P("data")),
        (parameter((64, 64)), P("data")),  # the first of equal ones
        (parameter((129, 64)), P(None, "data")),  # the longest divisible one
        (parameter((64, 128), None, "model"), P("data", "model")),  # the longest free one
        (parameter((63, 128), None, "model"), P(None, "model")),
        (parameter((31, 33)), P()),
        (parameter((1024,)), P("data")),
        (parameter((1020,)), P()),  # too small
        (parameter(()), P()),
        (parameter((128, 64), "data", None), P("data")),  # already split over it
    ],
)
def test_shard_state_splits_the_longest_free_dimension(variable, spec):
    placement = Placement({"data": 4, "model": 2}, shard_state=True)
    assert specs(placement, variable) == [spec]


def test_shard_state_splits_nothing_over_a_data_axis_of_one():
    placement = Placement({"data": 1, "model": 2}, shard_state=True)
    assert specs(placement, parameter((64, 128))) == [P()]


@st.composite
def split_parameters(draw):
    """A mesh, and a parameter whose metadata fit it; each axis is named at most once."""
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
def test_shardings_divide_evenly_and_follow_the_metadata(case, shard_state):
    mesh, shape, axes = case
    placement = Placement(mesh, shard_state=shard_state)
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

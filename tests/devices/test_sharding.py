"""`Placement`: batches on the devices of a run."""

import re

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from nnx_alexnet.data import padded_size
from nnx_alexnet.devices.sharding import Placement


def test_a_placement_counts_devices_and_parts():
    placement = Placement({"data": 2, "model": 4})
    assert (placement.num_devices, placement.num_parts) == (8, 2)
    assert placement.describe() == "data 2 x model 4"


def test_its_context_hides_a_mesh_that_the_caller_has_set():
    placement = Placement({"data": 2})
    other = jax.make_mesh((4,), ("rows",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(other):
        with placement.context():
            assert jax.sharding.get_mesh() != other
        assert jax.sharding.get_mesh() == other


@given(st.integers(1, 8), st.integers(1, 1000))
def test_a_padded_batch_splits_evenly_with_the_fewest_added_rows(parts, size):
    placement = Placement(parts)
    padded = padded_size(size, placement.num_parts)
    assert size <= padded < size + parts
    placement.check_batch_size(padded)


@given(st.integers(1, 8), st.integers(1, 1000))
def test_an_uneven_batch_size_is_refused_with_the_nearest_even_ones(parts, size):
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


def test_other_axes_do_not_restrict_the_batch_size():
    Placement({"data": 2, "model": 4}).check_batch_size(6)


def test_one_process_reads_all_rows():
    assert Placement(4).rows(8) is None


@pytest.mark.parametrize("stacked", [False, True])
def test_each_device_receives_its_rows_of_a_batch(stacked):
    rows = np.arange(24).reshape(3, 8) if stacked else np.arange(8)
    sent = Placement({"data": 4, "model": 2}).send({"x": rows}, 8, stacked=stacked)["x"]
    np.testing.assert_array_equal(sent, rows)
    assert len(sent.addressable_shards) == 8
    assert all(shard.data.shape[-1] == 2 for shard in sent.addressable_shards)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("size", [1, 3, 6, 9])
def test_an_uneven_batch_is_replicated(size, stacked):
    placement = Placement({"data": 4, "model": 2})
    rows = np.arange(3 * size).reshape(3, size) if stacked else np.arange(size)
    sent = placement.send({"x": rows}, size, stacked=stacked)["x"]
    np.testing.assert_array_equal(sent, rows)
    assert sent.sharding == placement.of_batch(size, stacked=stacked) == placement.replicated
    assert len(sent.addressable_shards) == 8
    assert placement.rows(size) is None


@pytest.mark.parametrize(("size", "spec"), [(8, P("data")), (4, P("data")), (6, P())])
def test_the_data_axis_decides_whether_a_batch_is_split(size, spec):
    placement = Placement({"data": 4, "model": 2})
    assert placement.of_batch(size).spec == spec
    assert placement.of_batch(size, stacked=True).spec == (P(None, *spec) if spec else P())


def test_a_single_device_receives_batches_in_the_call_of_the_step():
    batch = {"x": np.arange(8)}
    assert Placement(1).send(batch, 8) is batch


def test_one_process_holds_whole_arrays():
    placement = Placement(4)
    sent = placement.send({"x": np.arange(8)}, 8)
    assert placement.own_rows(sent) is sent
    assert placement.whole(sent["x"]) is sent["x"]

"""`Layout`: the names, shapes and places of the arrays of a module, in one order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nnx_alexnet.devices import Placement
from nnx_alexnet.task import ContractError
from nnx_alexnet.training.module_layout import Layout, constrained


class Net(nnx.Module):
    def __init__(self):
        self.b = nnx.Param(jnp.arange(3.0))
        self.a = nnx.BatchStat(jnp.float32(2.0))
        self.number = nnx.Variable(5)


def layout_of(module, owner="model"):
    return Layout(nnx.state(module), Placement(1), owner)


def test_arrays_are_listed_by_their_path_in_the_order_of_the_state():
    layout = layout_of(Net())
    assert layout.names == ["a", "b", "number"]
    assert [(s.shape, s.dtype.name) for s in layout.structs] == [
        ((), "float32"), ((3,), "float32"), ((), "int32")
    ]  # fmt: skip


def test_copies_are_of_their_own_and_numbers_become_arrays():
    module = Net()
    copies = layout_of(module).copied(module)
    assert [copy.tolist() for copy in copies] == [2.0, [0, 1, 2], 5]
    assert not any(copy.weak_type for copy in copies)
    copies[1].delete()
    assert module.b[...].tolist() == [0, 1, 2]


def test_a_state_made_of_leaves_is_that_of_the_module():
    module = Net()
    layout = layout_of(module)
    nnx.update(module, layout.state([jnp.float32(4.0), jnp.ones(3), jnp.int32(6)]))
    assert (float(module.a[...]), module.b[...].tolist(), int(module.number[...])) == (
        4.0, [1, 1, 1], 6
    )  # fmt: skip


def test_the_abstract_arrays_know_their_sharding():
    layout = layout_of(Net())
    for struct, leaf, sharding in zip(
        layout.abstract(), layout.structs, layout.shardings, strict=True
    ):
        assert (struct.shape, struct.dtype, struct.sharding) == (leaf.shape, leaf.dtype, sharding)


def leaves_after(change):
    module = Net()
    layout = layout_of(module)
    before = layout.copied(module)
    nnx.update(module, layout.state(before))
    change(module)
    return layout.leaves(module, before)


def test_the_leaves_after_a_step_are_the_new_ones():
    def change(module):
        module.b[...] = module.b[...] + 1

    assert [leaf.tolist() for leaf in leaves_after(change)] == [2.0, [1, 2, 3], 5]


def replace(name, value):
    def change(module):
        setattr(module, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (replace("b", nnx.Param(jnp.zeros(4))), r"`b` of float32\[3\] that becomes float32\[4\]"),
        (
            replace("b", nnx.Param(jnp.zeros(3, jnp.int32))),
            r"`b` of float32\[3\] that becomes int32\[3\]",
        ),
        (replace("c", nnx.Param(jnp.zeros(1))), "It adds `c`."),
        (replace("a", None), "It removes `a`."),
    ],
    ids=["shape", "dtype", "made", "removed"],
)
def test_a_step_that_changes_what_there_is_is_refused_by_name(change, text):
    with pytest.raises(ContractError, match=text):
        leaves_after(change)


def test_added_variables_are_refused_whatever_the_values():
    module = Net()
    layout = layout_of(module)
    layout.check_variables(module)
    module.c = nnx.Variable(0)
    with pytest.raises(ContractError, match=r"adds or removes variables .* It adds `c`\."):
        layout.check_variables(module)


def test_what_a_call_leaves_for_others_to_read_is_no_part_of_the_state():
    leaves = leaves_after(replace("seen", nnx.Intermediate(jnp.zeros(2))))
    assert len(leaves) == 3


def test_weak_types_do_not_reach_the_next_step():
    layout = layout_of(Net())
    like = layout.copied(Net())

    def step(leaves):
        assert jnp.multiply(2.0, 3.0).weak_type
        return layout.kept([jnp.multiply(2.0, 3.0), leaves[1], leaves[2]], leaves)

    kept = jax.jit(step)(like)
    assert float(kept[0]) == 6.0
    assert not any(leaf.weak_type for leaf in kept)


def test_what_is_no_array_is_refused_by_name():
    module = Net()
    module.note = nnx.Variable("text")
    with pytest.raises(ValueError, match="`optimizer` has a variable `note` that holds 'text'"):
        layout_of(module, "optimizer")


def test_an_empty_tree_needs_no_sharding():
    assert constrained({}, None) == {}
    sharding = Placement(1).replicated
    found = jax.jit(lambda tree: constrained(tree, sharding))({"x": np.ones(2)})
    assert found["x"].tolist() == [1, 1]

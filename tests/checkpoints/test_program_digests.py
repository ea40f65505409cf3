"""Digests of traced functions."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import Primitive

from nnx_alexnet.checkpoints.program_digests import fingerprint, float_constants, unchanged


def print_of(function, *arguments):
    return fingerprint(jax.make_jaxpr(function)(*arguments))


def test_a_fingerprint_depends_on_operations_constants_and_shapes():
    x = jnp.ones(3)
    table = jnp.arange(3.0)

    def scanned(factor):
        return lambda x: jax.lax.scan(lambda c, y: (c * factor, y), x[0], x)

    same = [lambda x: x * 2 + table, lambda y: y * 2 + table]
    assert len({print_of(each, x) for each in same}) == 1
    different = [
        same[0], lambda x: x * 3 + table, lambda x: x * 2 - table, lambda x: x * 2 + (table + 1),
        lambda x: table + x * 2, scanned(2.0), scanned(3.0), jax.jit(lambda x: x - 1),
        jax.jit(lambda x: x - 2), jax.grad(lambda x: jnp.sin(x).sum()), jax.checkpoint(jnp.cos),
    ]  # fmt: skip
    prints = [print_of(each, x) for each in different] + [print_of(same[0], jnp.ones((1, 3)))]
    assert len(set(prints)) == len(prints)


def test_names_of_functions_and_addresses_do_not_matter():
    def traced(name):
        def inner(x):
            return jnp.where(x > 0, x, 0.1 * x)

        inner.__name__ = name
        return print_of(jax.jit(inner), jnp.ones(3))

    assert traced("first") == traced("second")

    def activated(x):
        return nnx.relu(x)  # a custom_jvp whose rule is a function with an address

    assert print_of(activated, jnp.ones(3)) == print_of(nnx.relu, jnp.ones(3))


def test_the_order_of_a_set_does_not_matter():
    """`shard_map` has sets of names, whose order differs between processes."""
    operation = Primitive("operation")
    operation.def_abstract_eval(lambda x, **_: x)
    sets = frozenset([0, 8]), frozenset([8, 0]), frozenset([0, 16])
    assert sets[0] == sets[1]
    assert [*sets[0]] != [*sets[1]]
    first, same, other = (
        fingerprint(jax.make_jaxpr(functools.partial(operation.bind, axes=each))(1.0))
        for each in sets
    )
    assert first == same != other


def test_constants_of_nested_functions_are_found():
    jaxpr = jax.make_jaxpr(jax.jit(lambda x: jax.lax.cond(True, lambda y: y * 0.25, jnp.sin, x)))
    assert float_constants(jaxpr(1.0)) == [0.25]


def test_constants_are_finite_sorted_and_at_most_40():
    def many(x):
        for number in range(50, 0, -1):
            x = x * float(number)
        return x + float("inf")

    assert float_constants(jax.make_jaxpr(many)(1.0)) == [float(n) for n in range(1, 41)]


def test_inputs_that_are_returned_at_the_same_position_are_unchanged():
    def swapped(x, y, z):
        return y, x, z, x

    assert unchanged(jax.make_jaxpr(swapped)(1.0, 2.0, 3.0), 3) == [2]
    assert unchanged(jax.make_jaxpr(swapped)(1.0, 2.0, 3.0), 2) == []

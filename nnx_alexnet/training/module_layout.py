"""`Layout`: the names, shapes and shardings of a module's arrays, in one order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nnx_alexnet.devices import Placement, as_struct, is_key, model_state, named_leaves, placed
from nnx_alexnet.task import ContractError


class Layout:
    """The arrays of a model or an optimizer as a flat list, which a compiled step takes.

    Args:
        state: the state of the module; its values are not kept.
        placement: chooses how each array is split.
        owner: the owner of the state, for errors: "model" or "optimizer".

    Attributes:
        names: the path of each array, such as "conv1/kernel".
        structs: the shape and dtype of each array, as a step takes it.
        shardings: how each array is split.

    Raises:
        ValueError: a variable holds something that is not an array.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.training.module_layout import Layout
        >>> from nnx_alexnet.devices.sharding import Placement
        >>> model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        >>> layout = Layout(nnx.state(model), Placement(), "model")
        >>> layout.names, [struct.shape for struct in layout.structs]
        (['bias', 'kernel'], [(3,), (2, 3)])
    """

    def __init__(self, state: nnx.State[Any, Any], placement: Placement, owner: str) -> None:
        leaves = named_leaves(state)
        self.names = list(leaves)
        self.structs = [_struct(owner, name, leaf) for name, leaf in leaves.items()]
        self.shardings = placement.shardings(state)
        self._tree = jax.tree.structure(state)
        self._owner = owner

    def copied(self, module: Any) -> list[jax.Array]:
        """Returns copies of a module's arrays, so that donating them invalidates no reference."""
        return list(map(_copied, jax.tree.leaves(model_state(module)), self.shardings))

    def state(self, leaves: Sequence[Any]) -> nnx.State[Any, Any]:
        """Returns the state with these arrays, which are in the order of `names`."""
        state: nnx.State[Any, Any] = jax.tree.unflatten(self._tree, leaves)
        return state

    def abstract(self) -> Any:
        """Returns shape, dtype and sharding of each array."""
        pairs = zip(self.structs, self.shardings, strict=True)
        return [jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where) for s, where in pairs]

    def leaves(self, module: Any, before: Sequence[jax.Array]) -> list[jax.Array]:
        """Returns the arrays of a module after a step that is being traced.

        Args:
            module: the module after the step. Sown intermediates are left out.
            before: the arrays before the step.

        Raises:
            ContractError: the step has added or removed variables, or changed the shape or dtype
                of one.
        """
        state = self._checked_state(module)
        after: list[jax.Array] = jax.tree.leaves(state)
        for name, new, old in zip(self.names, after, before, strict=True):
            if new.shape != old.shape or new.dtype != old.dtype:
                raise ContractError(
                    f"`{self._owner}` has a variable `{name}` of {_text(old)} that becomes "
                    f"{_text(new)} in a step; its shape and dtype must not change. Initialise it "
                    "with its final shape and dtype."
                )
        return after

    def check_variables(self, module: Any) -> None:
        """Raises a `ContractError` if a step that is being traced added or removed variables."""
        self._checked_state(module)

    def kept(self, after: Sequence[jax.Array], like: Sequence[jax.Array]) -> list[jax.Array]:
        """Returns the arrays of a step with the types and shardings of its input arrays."""
        typed = map(_typed_as, after, like)
        return list(map(jax.lax.with_sharding_constraint, typed, self.shardings))

    def _checked_state(self, module: Any) -> nnx.State[Any, Any]:
        state = model_state(module)
        if jax.tree.structure(state) != self._tree:  # type: ignore[operator]
            raise ContractError(self._other_variables([*named_leaves(state)]))
        return state

    def _other_variables(self, now: Sequence[str]) -> str:
        new = [f"`{name}`" for name in now if name not in self.names]
        gone = [f"`{name}`" for name in self.names if name not in now]
        made = f" It adds {', '.join(new[:5])}." if new else ""
        removed = f" It removes {', '.join(gone[:5])}." if gone else ""
        return (
            f"`{self._owner}` adds or removes variables when it is called, but a step must return "
            f"the same ones.{made}{removed} Create layers and variables in `__init__`; if the "
            "model creates them in its first call, call it once on an example batch, in training "
            "mode, before the Trainer is built. A value that a call stores only for others to read "
            "must be in a subclass of nnx.Intermediate."
        )


def _struct(owner: str, name: str, leaf: Any) -> jax.ShapeDtypeStruct:
    try:
        return as_struct(leaf)
    except TypeError as error:
        raise ValueError(
            f"`{owner}` has a variable `{name}` that holds {leaf!r}, which is not an array. Keep "
            "it in a plain attribute, not in an nnx.Variable."
        ) from error


def _copied(leaf: Any, sharding: jax.sharding.NamedSharding) -> jax.Array:
    """Returns a copy without a weak type, which would make the step be traced again."""
    if getattr(leaf, "weak_type", not hasattr(leaf, "dtype")):
        leaf = np.asarray(leaf, jnp.result_type(leaf))
    return placed(leaf, sharding)


def _typed_as(new: jax.Array, old: jax.Array) -> jax.Array:
    """Returns `new` without a weak type, so that the next call has the same types."""
    return new if is_key(old) else jax.lax.convert_element_type(new, old.dtype)


def _text(array: jax.Array) -> str:
    return f"{array.dtype}{[*array.shape]}"


def constrained(tree: Any, sharding: Any) -> Any:
    """Constrains the compiler to one sharding for all arrays of a tree.

    Args:
        tree: arrays of a program that is traced; an empty tree is returned unchanged.
        sharding: the sharding of each array.
    """
    return jax.lax.with_sharding_constraint(tree, sharding) if jax.tree.leaves(tree) else tree

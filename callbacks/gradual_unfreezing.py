"""`GradualUnfreezing`: starts to train groups of parameters one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nnx_alexnet.callbacks.base import Callback, last_step
from nnx_alexnet.optimizers import GradNormState, LossScaleState
from nnx_alexnet.support import check_integer, logger, unknown

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer


class GradualUnfreezing(Callback):
    """Trains the last layers first, and unfreezes the others at later epochs.

    Each group of parameters has an optimizer of its own, whose state (such as Adam's moments) does
    not change until the group is unfrozen. Until then, its parameters keep their values: they have
    no updates and no weight decay. Learning rate schedules follow the steps of the run, not those
    of the group. Clipping by the global norm applies to each group separately, and so do
    `log_grad_norm` and `dynamic_loss_scale`: each group has a metric `grad_norm/<group>` and a
    `loss_scale/<group>`. The smallest of these scales is used.

    The unfreezing is a function of the step count in the optimizer's state, so a resumed run
    unfreezes at the same step. Steps that `check_finite` skips do not count. The gradients of
    frozen groups are computed and dropped: this protects pretrained weights, but it does not save
    time. To save time, use `Trainer(trainable=)`, and start a second run from the weights of the
    first.

    Source: Howard & Ruder 2018, https://arxiv.org/abs/1801.06146, section 3.3.

    Args:
        groups: prefixes of the paths of parameters, with the epoch (from 0) that trains them first:
            `{"dense3": 0, "dense": 1, "": 3}`. The longest prefix that matches a parameter counts;
            parameters that match none stay frozen. A list stands for epochs 0, 1, 2, ...
        steps_per_epoch: the optimizer steps per epoch; None (the default) means those of the data.

    Raises:
        ValueError: no group starts at epoch 0, an epoch is negative, a prefix matches no parameter
            that is trained, or the data do not determine the number of steps per epoch.

    Example:
        >>> from nnx_alexnet.callbacks import GradualUnfreezing
        >>> GradualUnfreezing(["dense3", "dense", ""]).groups
        {'dense3': 0, 'dense': 1, '': 2}
    """

    def __init__(
        self, groups: Mapping[str, int] | Sequence[str], *, steps_per_epoch: int | None = None
    ):
        check_integer("steps_per_epoch", steps_per_epoch, also=(None,))
        if isinstance(groups, str):
            groups = [groups]
        if not _are_groups(groups):
            raise ValueError(
                f"`groups` (={groups!r}) must be prefixes of the paths of parameters: a list, or a "
                'dict with the epoch of each, such as {"dense3": 0, "": 1}.'
            )
        pairs = groups.items() if isinstance(groups, Mapping) else zip(groups, range(len(groups)))  # noqa: B905
        self.groups = dict(pairs)
        self.steps_per_epoch = steps_per_epoch
        if 0 not in self.groups.values():
            raise ValueError(
                f"`groups` (={self.groups}) must train a group from epoch 0, or nothing is trained "
                'in the first epoch; such as {"dense3": 0, "": 1}.'
            )

    def configure_optimizer(
        self, trainer: Trainer, optimizer: optax.GradientTransformation
    ) -> optax.GradientTransformation:
        """Gives each group an optimizer that starts at its epoch."""
        names = [*trainer.parameters()]
        trained = {longest_prefix(name, self.groups) for name in trainer.trained_parameters}
        for prefix in self.groups:
            if not any(name.startswith(prefix) for name in names):
                raise unknown("groups", prefix, names)
            if prefix not in trained:
                raise ValueError(
                    f"`groups`: {prefix!r} selects no parameter of its own that is trained. "
                    "Parameters that `trainable` of the Trainer leaves out stay frozen, and of "
                    "several prefixes that match a parameter, the longest one counts."
                )
        num_steps = self.steps_per_epoch or trainer.steps_per_epoch
        if num_steps is None:
            raise ValueError(
                "`GradualUnfreezing` needs the number of steps per epoch, which the train split "
                "does not determine. Pass `steps_per_epoch`."
            )
        return unfreezing(
            optimizer, {prefix: epoch * num_steps for prefix, epoch in self.groups.items()}
        )

    def on_train_start(self, trainer: Trainer) -> None:
        """Warns of groups that stay frozen, because the run ends before they are due."""
        end, per_epoch = last_step(trainer), self.steps_per_epoch or trainer.steps_per_epoch
        for prefix, epoch in self.groups.items():
            if end is not None and per_epoch is not None and epoch * per_epoch >= end:
                logger.warning(
                    "`GradualUnfreezing` never trains the group %r, which starts at epoch %d "
                    "(from 0), because the run ends after %d steps.", prefix, epoch, end,
                )  # fmt: skip

    def on_train_epoch_start(self, trainer: Trainer) -> None:
        """Logs the groups that are unfrozen."""
        due = [
            each or "all others" for each, epoch in self.groups.items() if epoch == trainer.epoch
        ]
        if due and trainer.step_in_epoch == 0:
            logger.info("Epoch %d unfreezes %s.", trainer.epoch + 1, ", ".join(due))


def longest_prefix(name: str, prefixes: Iterable[str]) -> str | None:
    """Returns the longest prefix of a name, None if no prefix matches.

    Example:
        >>> from nnx_alexnet.callbacks.gradual_unfreezing import longest_prefix
        >>> longest_prefix("dense3/bias", ["", "dense", "conv"])
        'dense'
    """
    return max((each for each in prefixes if name.startswith(each)), key=len, default=None)


def _are_groups(groups: object) -> bool:
    """Returns whether a value has one of the two forms of `groups`."""
    if isinstance(groups, Mapping):
        epochs = groups.values()
        if not all(type(each) is int and each >= 0 for each in epochs):
            return False
    return isinstance(groups, Mapping | list | tuple) and all(isinstance(g, str) for g in groups)


class DelayedState(NamedTuple):
    """The number of steps so far, and the state of the optimizer that is delayed."""

    step: jax.Array
    delayed: Any


def unfreezing(
    optimizer: optax.GradientTransformation, starts: Mapping[str, int]
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer of groups of parameters that start at different steps.

    Args:
        optimizer: applied to each group separately.
        starts: prefixes of the paths of parameters, with the number of steps before their first
            update.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from nnx_alexnet.callbacks.gradual_unfreezing import unfreezing
        >>> optimizer = unfreezing(optax.sgd(0.5), {"head": 0, "": 1})
        >>> ones = {"body": jnp.ones(()), "head": jnp.ones(())}
        >>> updates, state = optimizer.update(ones, optimizer.init(ones), ones)
        >>> float(updates["body"]), float(updates["head"])
        (0.0, -0.5)
        >>> float(optimizer.update(ones, state, ones)[0]["body"])
        -0.5
    """
    frozen = "not trained"  # not the name of a group

    def group(path: Sequence[Any]) -> str:
        name = "/".join(_part(key) for key in path)
        prefix = longest_prefix(name, starts)
        return frozen if prefix is None else _label(prefix)

    def labels(parameters: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: group(path), parameters)

    groups = {_label(each): delayed(optimizer, start) for each, start in starts.items()}
    return optax.partition({**groups, frozen: optax.set_to_zero()}, labels)


def delayed(
    optimizer: optax.GradientTransformation, start: int
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer whose updates are zero for `start` steps; its schedules do not wait."""
    inner = optax.with_extra_args_support(optimizer)

    def init(parameters: Any) -> DelayedState:
        return DelayedState(jnp.zeros((), jnp.int32), inner.init(parameters))

    def update(
        gradients: Any, state: DelayedState, parameters: Any = None, **extra: Any
    ) -> tuple[Any, DelayedState]:
        updates, after = inner.update(gradients, state.delayed, parameters, **extra)
        if start:
            is_due = state.step >= start
            updates = jax.tree.map(lambda u: jnp.where(is_due, u, jnp.zeros_like(u)), updates)
            after = _held(is_due, state.delayed, after)
        return updates, DelayedState(optax.safe_increment(state.step), after)

    return optax.GradientTransformationExtraArgs(init, update)


def _held(is_due: jax.Array, before: Any, after: Any) -> Any:
    """Returns the state after a step if it is due, else that before it.

    Schedules, norms of gradients and loss scales always move.
    """

    def choose(old: Any, new: Any) -> Any:
        if isinstance(new, optax.ScaleByScheduleState | GradNormState):
            return new
        if isinstance(new, optax.InjectStatefulHyperparamsState):
            return new._replace(inner_state=_held(is_due, old.inner_state, new.inner_state))
        if isinstance(new, LossScaleState):
            return new._replace(inner=_held(is_due, old.inner, new.inner))
        return jnp.where(is_due, new, old)

    def is_moving(node: Any) -> bool:
        return isinstance(node, _MOVING)

    return jax.tree.map(choose, before, after, is_leaf=is_moving)


_MOVING = (
    optax.ScaleByScheduleState,
    optax.InjectStatefulHyperparamsState,
    GradNormState,
    LossScaleState,
)


def _part(key: Any) -> str:
    return str(next(getattr(key, name) for name in ("key", "idx", "name") if hasattr(key, name)))


def _label(prefix: str) -> str:
    return prefix or "others"

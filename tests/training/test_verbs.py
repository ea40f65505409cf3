"""What the verbs do with the parts; all values are computed by hand (see `parts`)."""

from functools import partial

import pytest
from parts import Parts

from nnx_alexnet.callbacks import Callback
from nnx_alexnet.training import ModuleSteps, Verbs, eval_step, train_step


class Keeps(Callback):
    def __init__(self):
        self.calls = []

    def setup(self, trainer, stage):
        self.calls.append(("setup", stage))

    def on_log(self, trainer, metrics, step):
        self.calls.append((dict(metrics), step))

    def on_test_end(self, trainer):
        self.calls.append("on_test_end")

    def teardown(self, trainer, stage):
        self.calls.append(("teardown", stage))


def predict_step(model, batch):
    return model(batch["image"])


def verbs_of(**arguments):
    """The verbs, and the parts that they are given; one epoch changes the weight by -2.5."""
    parts = Parts(**{"val": (2.0, 4.0), "max_epochs": 1, "log_every_n_steps": 50, **arguments})
    steps = ModuleSteps(
        partial(train_step, parts.task), partial(eval_step, parts.task), predict_step
    )
    verbs = Verbs(
        settings=parts.settings, config={}, hooks=parts.hooks, arrays=parts.arrays,
        data=parts.data, task=parts.task, placement=parts.placement,
        transformation=parts.optimizer, steps=lambda: steps,
    )  # fmt: skip
    return verbs, parts


def test_each_fit_has_its_own_counters_and_continues_with_the_weight():
    verbs, parts = verbs_of()
    first = verbs.fit("never", ())
    assert [(row["step"], row["val/loss"]) for row in first] == [(2, 3 * -1.5)]
    progress, requests = verbs.progress, verbs.requests
    second = verbs.fit("never", ())
    assert [(row["step"], row["val/loss"]) for row in second] == [(2, 3 * -4.0)]
    assert verbs.progress is not progress
    assert verbs.requests is not requests
    assert parts.weight == -4.0


def test_an_evaluation_publishes_its_metrics_at_the_step_of_the_last_fit():
    keeps = Keeps()
    verbs, _ = verbs_of(callbacks=[keeps])
    assert verbs.evaluate("test", "test", "test") == {"test/loss": 3.0}
    published = ({"test/loss": 3.0}, 0)
    assert keeps.calls == [("setup", "test"), published, "on_test_end", ("teardown", "test")]
    verbs.fit("never", ())
    keeps.calls.clear()
    verbs.evaluate("test", "test", "test")
    assert keeps.calls[1] == ({"test/loss": -4.5}, 2)


def test_predictions_are_those_of_all_examples_at_once_or_by_batch():
    verbs, parts = verbs_of(weight=2.0)
    assert verbs.predict(None).tolist() == [4.0, 8.0]
    assert verbs.predict(parts.data.train.in_order()).tolist() == [2.0, 4.0, 6.0, 8.0]
    batches = verbs.predict_batches([{"image": [[1.0]]}, {"image": [[3.0]]}])
    assert [batch.tolist() for batch in batches] == [[2.0], [6.0]]


def test_no_verb_begins_while_another_one_runs():
    verbs, _ = verbs_of()
    batches = verbs.predict_batches(None)
    for verb in (
        lambda: verbs.fit("never", ()),
        lambda: verbs.evaluate("validate", "validation", "val"),
        lambda: verbs.predict(None),
        lambda: verbs.show_mistakes("val", 1),
        verbs.step_memory,
    ):
        with pytest.raises(RuntimeError, match="still running"):
            verb()
    batches.close()
    assert verbs.evaluate("validate", "validation", "val") == {"val/loss": 3.0}


def test_a_step_that_is_not_finite_is_skipped_if_the_settings_allow_it():
    verbs, parts = verbs_of(train=(float("nan"), 2.0), data={"batch_size": 1}, check_finite=1)
    verbs.fit("never", ())
    assert parts.weight == 1.0 - 0.5 * 2.0
    assert verbs.progress.global_step == 2


def test_a_fit_that_is_refused_leaves_no_steps_under_way():
    verbs, _ = verbs_of()
    verbs.fit("never", ())
    assert verbs.dispatcher is not None
    with pytest.raises(ValueError, match="`accept`"):
        verbs.fit("never", "optimizer")
    assert verbs.dispatcher is None
    assert verbs.progress.global_step == 0

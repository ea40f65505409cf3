"""`EvaluationLoop`: one pass over a split, for validation, test and prediction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import RecordingCallback, trainer_of
from parts import Parts, split_of

from nnx_alexnet import DataModule, Task
from nnx_alexnet.callbacks import Callback
from nnx_alexnet.training.dispatcher import MAX_IN_FLIGHT
from nnx_alexnet.training.joined_rows import joined


def evaluated(parts, kind="validation", split="val"):
    loader = parts.preparation.split(split)
    empty = parts.preparation.for_evaluation(loader).empty
    return parts.evaluation.evaluate(kind, {split: loader}, empty)


def predicted_batches(parts, split="test"):
    loader = parts.preparation.split(split)
    parts.preparation.for_prediction(loader)
    return parts.evaluation.predict(loader)


def predicted(parts, split="test"):
    return joined(predicted_batches(parts, split))


@pytest.mark.parametrize("num", [1, 2, 3, 5])
def test_a_metric_is_exact_over_a_split_of_any_size(num):
    parts = Parts(val=range(1, num + 1), weight=2.0)
    # The mean of 1 to n is (n + 1) / 2, times the weight.
    assert evaluated(parts) == {"val/loss": num + 1.0}
    assert parts.arrays.num_compilations == {"evaluate": 1}
    assert float(parts.arrays.lend().weight[...]) == 2.0


def test_batches_of_an_iterable_may_be_larger_than_the_first_one():
    parts = Parts(weight=2.0)
    held_out = [split_of(1.0), split_of(2.0, 3.0, 4.0, 5.0), split_of(6.0, 7.0)]
    parts.data = parts.preparation._data = DataModule([split_of(1.0)], held_out, held_out)
    assert evaluated(parts) == {"val/loss": 8.0}
    assert predicted(parts).tolist() == [2, 4, 6, 8, 10, 12, 14]


def test_the_prefix_is_that_of_the_split():
    assert evaluated(Parts(val=(1.0, 3.0)), "test", "test") == {"test/loss": 2.0}


@pytest.mark.parametrize("num", [1, 4, 7])
def test_predictions_are_one_row_an_example_and_in_order(num):
    found = predicted(Parts(val=range(num), weight=3.0))
    np.testing.assert_array_equal(found, 3.0 * np.arange(num, dtype=np.float32))
    assert type(found) is np.ndarray


def test_predictions_come_batch_by_batch_without_padding():
    parts = Parts(val=range(5), weight=3.0)
    assert [rows.tolist() for rows in predicted_batches(parts)] == [[0, 3], [6, 9], [12]]
    assert parts.arrays.num_compilations == {"predict": 1}


def test_only_a_few_batches_are_read_ahead_of_the_results():
    read = []

    def batches():
        for number in range(10):
            read.append(number)
            yield split_of(float(number))

    parts = Parts(weight=2.0)
    parts.data = parts.preparation._data = DataModule([split_of(1.0)], None, batches())
    for number, rows in enumerate(predicted_batches(parts)):
        assert rows.tolist() == [2.0 * number]
        assert len(read) <= number + 1 + MAX_IN_FLIGHT


@pytest.mark.parametrize(("num_bytes", "ahead"), [(0, 32), (2**18, 32), (2**20, 8), (2**23, 2)])
def test_predictions_at_once_read_ahead_only_small_batches(num_bytes, ahead):
    parts = Parts(val=range(100), weight=3.0)
    loader = parts.preparation.split("test")
    parts.preparation.for_prediction(loader)
    extra = np.zeros((2, max(0, num_bytes // 2 - 50)), np.uint8)
    batches, read = loader.batches, []

    def larger(**options):
        for batch in batches(**options):
            read.append(batch)
            yield batch | {"extra": extra}

    loader.batches = larger
    results = parts.evaluation.predict(loader, at_once=True)
    found = [next(results)]
    assert len(read) == ahead + 1
    np.testing.assert_array_equal(np.concatenate([*found, *results]), 3.0 * np.arange(100))


class Wide(Task):
    """Predicts a megabyte for each example."""

    def predict(self, model, batch):
        return jnp.broadcast_to(model(batch["image"]), (len(batch["image"]), 2**18))


def test_predictions_at_once_keep_few_large_results_on_the_device():
    live = []

    class Watch(Callback):
        def on_predict_batch_end(self, *_):
            live.append(sum(array.shape == (2, 2**18) for array in jax.live_arrays()))

    images = np.arange(48, dtype=np.float32).reshape(48, 1)
    model = nnx.Linear(1, 1, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0))
    data = DataModule((images, np.zeros(48, np.int32)), batch_size=2)
    trainer = trainer_of(model, data, task=Wide(), callbacks=Watch())
    np.testing.assert_array_equal(trainer.predict(images)[:, ::9999].T, [images[:, 0]] * 27)
    assert len(live) == 24
    # 4 MB are two results of 2 MB; one more is being computed, and one is being read.
    assert max(live) <= 2 * MAX_IN_FLIGHT + 2


def test_predictions_belong_to_the_caller():
    for rows in predicted_batches(Parts(val=range(5), weight=3.0)):
        rows[...] = 1.0


def test_a_prediction_that_is_closed_early_ends_like_a_complete_one():
    recorder = RecordingCallback()
    parts = Parts(val=range(20), callbacks=[recorder])
    closed = []
    parts.data.test.close = lambda: closed.append(True)
    batches = predicted_batches(parts)
    next(batches)
    batches.close()
    assert recorder.calls[-2:] == ["on_predict_epoch_end", "on_predict_end"]
    assert recorder.calls.count("on_predict_batch_end") == 1 + MAX_IN_FLIGHT
    assert closed == [True]


def test_a_prediction_that_fails_has_no_end():
    class Fails(RecordingCallback):
        def on_predict_batch_end(self, *_):
            raise ValueError("of the hook")

    recorder = Fails()
    with pytest.raises(ValueError, match="of the hook"):
        predicted(Parts(val=range(4), callbacks=[recorder]))
    assert "on_predict_end" not in recorder.calls


def test_changes_after_the_first_batch_reach_the_next_pass():
    parts = Parts(val=range(10), weight=3.0)
    batches = predicted_batches(parts)
    next(batches)
    parts.arrays.lend().weight[...] = 5.0
    assert np.concatenate(list(batches)).tolist() == [6, 9, 12, 15, 18, 21, 24, 27]
    assert predicted(parts)[1] == 5.0


def test_predictions_may_be_a_tree():
    class Both(Task):
        def outputs(self, model, batch):
            return {"loss": model(batch["image"])}

        def predict(self, model, batch):
            return {"once": model(batch["image"]), "twice": 2 * batch["image"]}

    found = predicted(Parts(val=range(3), task=Both()))
    assert found["once"].tolist() == [0, 1, 2]
    assert found["twice"].tolist() == [[0], [2], [4]]


def test_hooks_are_called_around_each_batch_and_at_the_end():
    recorder = RecordingCallback()
    parts = Parts(val=(1.0, 2.0, 3.0), callbacks=[recorder])
    evaluated(parts)
    batch = ["on_validation_batch_start", "on_validation_batch_end"]
    started = ["on_validation_start", "on_validation_epoch_start", *batch, *batch]
    assert recorder.calls == started
    parts.evaluation.end("validation")
    ended = [*started, "on_validation_epoch_end", "on_validation_end"]
    assert recorder.calls == ended
    predicted(parts)
    assert recorder.calls[len(ended) :] == [
        name.replace("validation", "predict") for name in ended
    ]  # fmt: skip


class Ends(Callback):
    """Keeps what its hook is given, and may interrupt after a batch."""

    def __init__(self, interrupts_after=None):
        self.interrupts_after, self.given = interrupts_after, []

    def on_validation_batch_end(self, trainer, outputs, batch, batch_index):
        self.given.append((np.asarray(outputs["loss"]), batch, batch_index))
        if batch_index == self.interrupts_after:
            trainer.requests.interrupt(2)


def test_hooks_get_the_outputs_of_their_own_batch_with_its_padding_masked():
    ends = Ends()
    evaluated(Parts(val=(1.0, 2.0, 3.0), callbacks=[ends], weight=10.0))
    losses = [loss[batch["mask"]].tolist() for loss, batch, _ in ends.given]
    assert losses == [[10.0, 20.0], [30.0]]
    assert [len(loss) for loss, _, _ in ends.given] == [2, 2]
    assert [index for _, _, index in ends.given] == [0, 1]


def test_a_signal_cuts_a_pass_short_and_it_has_no_metrics():
    ends = Ends(interrupts_after=1)
    parts = Parts(val=range(10), callbacks=[ends])
    assert evaluated(parts) == {}
    assert [index for _, _, index in ends.given] == [0, 1]
    parts.requests.begin_verb()
    ends.interrupts_after = None
    assert evaluated(parts) == {"val/loss": 4.5}


def test_labels_are_checked_before_their_batch_is_evaluated():
    parts = Parts(val=range(6))
    seen = []

    def check(loader, batch):
        seen.append(batch["index"].tolist())
        if 2 in batch["index"]:
            raise ValueError("a label of 2")

    parts.evaluation._check_batch = check
    with pytest.raises(ValueError, match="a label of 2"):
        evaluated(parts)
    assert seen == [[0, 1], [2, 3]]
    predicted(parts)
    assert len(seen) == 2, "a prediction has no labels"


def test_what_a_start_hook_puts_into_the_model_is_what_is_evaluated():
    class Puts(Callback):
        def on_validation_start(self, trainer):
            trainer.arrays.lend().weight[...] = 7.0

    parts = Parts(val=(1.0,), callbacks=[Puts()])
    loader = parts.preparation.split("val")
    empty = parts.preparation.for_evaluation(loader).empty
    parts.arrays.take()
    assert parts.evaluation.evaluate("validation", {"val": loader}, empty) == {"val/loss": 7.0}


class Noisy(nnx.Module):
    """Returns random numbers, of the keys that it holds."""

    def __init__(self):
        self.weight = nnx.Param(jax.numpy.float32(0.0))
        self.rngs = nnx.Rngs(0)

    def __call__(self, image):
        return jax.random.uniform(self.rngs(), (len(image),)) + 0 * self.weight[...]


def test_each_pass_outside_of_training_has_its_own_noise():
    parts = Parts(val=range(4), model=Noisy())
    first, second = predicted(parts), predicted(parts)
    assert len({*first.tolist(), *second.tolist()}) == 8, "each batch and each pass"
    assert predicted(Parts(val=range(4), model=Noisy())).tolist() == first.tolist()


def test_the_noise_of_a_validation_in_training_is_that_of_its_step():
    def loss(step):
        parts = Parts(val=range(4), model=Noisy())
        assert parts.ingredients
        parts.progress.global_step = step
        return evaluated(parts)["val/loss"]

    assert loss(4) == loss(4)
    assert loss(4) != loss(8)

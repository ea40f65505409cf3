import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from flax import nnx
from helpers import trainer_of

from nnx_alexnet import DataModule, Task
from nnx_alexnet.callbacks import Callback
from nnx_alexnet.support import captioned

# Image k is filled with k; the model predicts class 1 with logit k / 4.
IMAGES = np.full((8, 4, 4, 1), 1, np.float32) * np.arange(8, dtype=np.float32)[:, None, None, None]
LABELS = np.array([0, 1, 0, 1, 0, 1, 0, 1], np.int32)


class Ones(nnx.Module):
    def __init__(self):
        self.slope = nnx.Param(jnp.array(0.25))

    def __call__(self, images):
        logits = images[:, 0, 0, 0] * self.slope
        return jnp.stack([jnp.zeros_like(logits), logits], axis=1)


class Counts(Callback):
    """Counts the calls of its hooks."""

    def __init__(self):
        self.calls = []

    def setup(self, trainer, stage):
        self.calls.append(stage)

    def on_log(self, trainer, metrics, step):
        self.calls.append(metrics)


@pytest.fixture(autouse=True)
def _figures():
    matplotlib.use("agg")
    yield
    plt.close("all")


def made(model=None, images=IMAGES, callbacks=(), **arguments):
    split = (images, LABELS)
    data = DataModule(split, split, split, batch_size=3, class_names=("even", "odd"))
    return trainer_of(Ones() if model is None else model, data, callbacks=callbacks, **arguments)


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_most_confident_mistakes_are_shown_first(split):
    sheet = made().show_mistakes(split, count=2).get_images()[0].get_array()
    # Images 6, 4 and 2 are even, and called odd with probability 1 / (1 + exp(-k / 4)).
    captions = [f"predicted\nodd ({share}%),\ntrue even" for share in (82, 73)]
    np.testing.assert_array_equal(sheet, captioned(IMAGES[[6, 4]], captions))


def test_the_mistakes_of_each_validation_set_can_be_shown():
    sets = {"a": (IMAGES, LABELS), "b": (IMAGES[:5], LABELS[:5])}
    data = DataModule((IMAGES, LABELS), sets, batch_size=3, class_names=("even", "odd"))
    trainer = trainer_of(Ones(), data)
    sheet = trainer.show_mistakes("val/b", count=1).get_images()[0].get_array()
    np.testing.assert_array_equal(
        sheet, captioned(IMAGES[[4]], ["predicted\nodd (73%),\ntrue even"])
    )
    with pytest.raises(ValueError, match=r"Known: 'test', 'val', 'val/a', 'val/b'"):
        trainer.show_mistakes("b")


def test_showing_mistakes_calls_no_callback_and_publishes_nothing():
    counts = Counts()
    trainer = made(callbacks=counts)
    trainer.show_mistakes()
    assert counts.calls == []
    assert trainer.metrics == {}
    trainer.validate()  # the trainer is idle again
    assert counts.calls[0] == "validate"


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="`show_mistakes` needs images"):
        made(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), np.zeros((8, 4), np.float32)).show_mistakes()


def test_a_task_without_classes_is_refused():
    class Brightness(Task):
        def outputs(self, model, batch):
            return {"loss": jnp.square(model(batch["image"])[:, 1])}

    with pytest.raises(ValueError, match=r"`logits`.*those of Brightness do not"):
        made(task=Brightness()).show_mistakes()


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"`split` \(='train'\) is unknown"):
        made().show_mistakes("train")
    with pytest.raises(ValueError, match="`count`"):
        made().show_mistakes(count=0)

import numpy as np
import pytest
from flax import nnx
from helpers import trainer_of

from nnx_alexnet import DataModule
from nnx_alexnet.callbacks import EarlyStopping

X = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)


@pytest.fixture
def trainer():
    data = DataModule((X, Y), (X, Y), batch_size=16, name="numbers")
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    return trainer_of(model, data, callbacks=[EarlyStopping(patience=5)], max_epochs=2)


def test_a_trainer_shows_what_it_will_do(trainer):
    assert repr(trainer) == "<Trainer of Linear on 'numbers': not trained>"
    page = trainer._repr_html_()
    for text in (
        "Linear on 4, 10 parameters, 40 B", "numbers: 32 train, 32 val",
        "4 steps of 16 examples, 2 epochs of 2 steps", "EarlyStopping(patience=5)", "not trained",
    ):  # fmt: skip
        assert text in page
    assert "metrics" not in page


def test_a_trainer_shows_how_far_it_is(trainer):
    trainer.fit()
    assert repr(trainer) == "<Trainer of Linear on 'numbers': 2 epochs done, step 4>"
    page = trainer._repr_html_()
    assert f"val/loss {trainer.metrics['val/loss']:.4f}" in page
    assert "_step" not in page

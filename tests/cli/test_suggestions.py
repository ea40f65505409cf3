"""The option that a user meant."""

import pytest

from nnx_alexnet.cli.option_groups import option_groups
from nnx_alexnet.cli.suggestions import hint, suggest

FIT = ["data", "model", "optimizer", "seed", "resume", "config", "resume-weights-only"]
FIT += [option.name for group in option_groups() for option in group.options]


@pytest.mark.parametrize(
    ("got", "meant"),
    [
        ("batch_size", "data.batch_size"),
        ("max_epochs", "trainer.max_epochs"),
        ("lr", "optimizer.learning_rate"),
        ("epochs", "trainer.max_epochs"),
        ("name", "trainer.name"),
        ("model.dropout", "model.dropout_rate"),
        ("trainer.epochs", "trainer.max_epochs"),
        ("trainer.lr", "optimizer.learning_rate"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("trainr.max_epochs", "trainer.max_epochs"),
        ("data.bach_size", "data.batch_size"),
        ("learning-rate", "optimizer.learning_rate"),
        ("gradient_clip_val", "optimizer.clip_norm"),
        ("accelerator", "trainer.devices"),
        ("patience", "trainer.callbacks+=EarlyStopping"),
        ("dataset", "data"),
        ("seeed", "seed"),
        ("no-augment", "data.augment"),
        ("trainer.gradient_clip_val", "optimizer.clip_norm"),
        ("trainer.precision", "model.dtype"),
        ("trainer.limit_train_batches", "trainer.limit_batches"),
        ("trainer.max_time", "trainer.callbacks+=Timer"),
        ("trainer.val_check_interval", "trainer.validate_every_n_steps"),
    ],
)
def test_the_option_that_was_meant_is_first(got, meant):
    assert suggest(got, FIT)[0] == meant


def test_every_name_of_other_tools_leads_to_an_option():
    assert suggest("num_train_epochs", FIT) == ["trainer.max_epochs"]
    assert suggest("lr", ["top_k"]) == []


@pytest.mark.parametrize("got", ["xyz", "data.foo", "q"])
def test_nothing_is_suggested_for_an_unlike_name(got):
    assert suggest(got, FIT) == []


def test_a_hint_lists_the_names():
    assert hint(["a", "b"]) == " Did you mean --a or --b?"
    assert hint(["fit"], dashes="") == " Did you mean fit?"

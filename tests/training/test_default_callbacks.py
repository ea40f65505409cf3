"""`with_defaults`: the callbacks that a trainer adds to those of the user."""

import pytest

from nnx_alexnet.callbacks import (
    Callback,
    EarlyStopping,
    JSONLogger,
    ModelCheckpoint,
    ProgressBar,
    RunSummary,
    TensorBoard,
)
from nnx_alexnet.training.default_callbacks import with_defaults

NOTHING = {"progress_bar": False, "writes": False}


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, []),
        ({"progress_bar": True}, [RunSummary, ProgressBar]),
        ({"writes": True}, [TensorBoard, JSONLogger, ModelCheckpoint]),
        (
            {"progress_bar": True, "writes": True},
            [RunSummary, ProgressBar, TensorBoard, JSONLogger, ModelCheckpoint],
        ),
    ],
    ids=str,
)
def test_each_option_adds_its_callbacks(options, kinds):
    added = with_defaults(None, **{**NOTHING, **options})
    assert [type(callback) for callback in added] == kinds


def test_a_default_is_left_out_where_one_of_its_kind_was_given():
    class MyBar(ProgressBar):
        pass

    given = [MyBar(), ModelCheckpoint(keep_latest=5)]
    callbacks = with_defaults(given, progress_bar=True, writes=True)
    assert callbacks[:2] == given, "those of the user are first"
    assert [type(each) for each in callbacks[2:]] == [RunSummary, TensorBoard, JSONLogger]


@pytest.mark.parametrize(
    ("given", "num"),
    [(EarlyStopping(), 1), (None, 0), ((), 0), ((each for each in [EarlyStopping()]), 1)],
)
def test_callbacks_may_be_one_none_or_any_iterable(given, num):
    assert len(with_defaults(given, **NOTHING)) == num


def test_the_list_of_the_user_stays_as_it_is():
    given = [Callback()]
    with_defaults(given, progress_bar=True, writes=True)
    assert len(given) == 1


@pytest.mark.parametrize("given", [5, "early", b"early", {"a": EarlyStopping()}, object()])
def test_what_is_no_list_of_callbacks_is_refused(given):
    with pytest.raises(TypeError, match=r"`callbacks` \(=.*must be a `Callback`, a list of them"):
        with_defaults(given, **NOTHING)


def test_two_callbacks_that_write_checkpoints_are_refused():
    with pytest.raises(ValueError, match="more than one ModelCheckpoint"):
        with_defaults([ModelCheckpoint(), ModelCheckpoint("val/loss")], **NOTHING)

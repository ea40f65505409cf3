import pytest

from nnx_alexnet.runs import class_metrics, validation_splits


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        ([], []),
        (["train/loss", "lr"], []),
        (["val/loss", "val/accuracy"], ["val"]),
        (["val/accuracy"], ["val"]),
        (["val/b/loss", "val/a/loss", "val/b/f1"], ["val/b", "val/a"]),
        (["val/b/loss", "val/gap"], ["val/b"]),
        (["val/loss", "val/f1/loss"], ["val"]),  # of a class that is called loss
        (["val/a/loss", "val/a/f1/loss"], ["val/a"]),
    ],
)
def test_validation_sets_are_known_by_their_losses(names, splits):
    assert validation_splits(names) == splits


def test_a_metric_of_one_class_continues_the_name_of_another():
    names = ["val/night/f1", "val/night/f1/cat", "train/f1/cat", "own", "own/trace", "val/night"]
    assert class_metrics(names[:-1]) == {"val/night/f1/cat": ("val/night/f1", "cat")}

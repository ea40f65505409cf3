import numpy as np

from nnx_alexnet.data import DataModule


def split_of(num):
    return np.zeros((num, 8, 8, 1), np.uint8), (np.arange(num) % 3).astype(np.int32)


class Unreadable:
    """An iterable that must not be read to be shown."""

    def __iter__(self):
        raise AssertionError("it was read")


def test_data_show_the_size_of_each_split():
    data = DataModule(split_of(10), split_of(3), batch_size=4, name="numbers")
    assert repr(data) == (
        "<DataModule 'numbers': train: 10 examples, 2 batches of 4 (2 unused); "
        "val: 3 examples, 1 batch of 4>"
    )
    assert repr(data.val) == "<Loader 'val': 3 examples, 1 batch of 4>"
    assert "uint8[8, 8, 1] per example" in data.val._repr_html_()


def test_a_notebook_shows_the_fields_and_the_classes():
    page = DataModule(split_of(10), batch_size=4, class_names=("a", "<b>", "c"))._repr_html_()
    for text in ("uint8[8, 8, 1] per example", "8x8x1", "3: a, &lt;b&gt;, c"):
        assert text in page


def test_an_iterable_is_not_read_to_be_shown():
    data = DataModule(Unreadable(), val=split_of(4), batch_size=4)
    assert repr(data) == "<DataModule 'data': train: an iterable; val: 4 examples, 1 batch of 4>"
    assert repr(DataModule([split_of(4)]).train) == "<Loader 'train': an iterable of 1 batch>"
    assert "an iterable" in data._repr_html_()

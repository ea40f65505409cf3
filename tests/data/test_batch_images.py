import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from nnx_alexnet.data import DataModule, ImageTransform
from nnx_alexnet.support import captioned

# The pixels of each image are its number, times 10.
IMAGES = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.full((1, 8, 8, 1), 10, np.uint8)
LABELS = (np.arange(12) % 3).astype(np.int32)


@pytest.fixture(autouse=True)
def _figures():
    matplotlib.use("agg")
    yield
    plt.close("all")


def pixels(axes):
    return axes.get_images()[0].get_array()


def test_the_images_of_the_first_batch_are_shown_with_their_classes():
    data = DataModule(
        (IMAGES, LABELS), val=(IMAGES[6:], LABELS[6:]), batch_size=4,
        transform=ImageTransform(mean=(0.5,), std=(0.25,)), class_names=("a", "b", "c"),
    )  # fmt: skip
    for split, start in (("train", None), ("val", 6)):
        loader = getattr(data, split)
        index = next(loader.batches(epoch=2, seed=1))["index"]
        images, labels = IMAGES[(start or 0) + index], LABELS[(start or 0) + index]
        names = ["abc"[label] for label in labels]
        expected = captioned(images[:3], names[:3])
        sheet = pixels(data.show_batch(split, count=3, epoch=2, seed=1))
        np.testing.assert_array_equal(sheet, expected)


def test_only_training_images_are_augmented():
    noise = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), np.uint8)
    split = (noise, np.zeros(4, np.int32))
    data = DataModule(split, val=split, batch_size=4, transform=ImageTransform(flip=True))
    train = [pixels(data.show_batch(epoch=epoch)) for epoch in (0, 0, 1)]
    np.testing.assert_array_equal(train[0], train[1])
    assert (train[0] != train[2]).any()
    val = [pixels(data.show_batch("val", epoch=epoch)) for epoch in (0, 1)]
    np.testing.assert_array_equal(*val)


def test_an_iterable_is_shown_too():
    batches = [(IMAGES[:4], LABELS[:4]), (IMAGES[4:8], LABELS[4:8])]
    sheet = pixels(DataModule(batches).show_batch())
    np.testing.assert_array_equal(sheet, captioned(IMAGES[:4], ["0", "1", "2", "0"]))


def test_data_without_images_are_refused():
    with pytest.raises(ValueError, match=r"`data` has no images to show.*'label'"):
        DataModule((np.zeros((8, 5), np.float32), np.zeros(8, np.int32)), batch_size=4).show_batch()


def test_a_split_that_does_not_exist_is_refused():
    data = DataModule((IMAGES, LABELS), batch_size=4)
    with pytest.raises(ValueError, match=r"`split` \(='val'\) is unknown.* Known: 'train'"):
        data.show_batch("val")
    with pytest.raises(ValueError, match="`count`"):
        data.show_batch(count=0)

import dataclasses
import hashlib
import itertools
import logging
import os
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import tiny_arrays
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from worker_datasets import Noisy

from nnx_alexnet.data import DataModule, ImageTransform, array_source, as_data_module
from nnx_alexnet.data.iterable import IterableSource
from nnx_alexnet.data.sources import ArraySource, MapSource, as_source


def first(source):
    return source.take(np.array([0]), seed=0, epoch=0)


def test_arrays_become_uint8_or_float32_images_and_int32_labels():
    labels = np.array([3, 1], np.int64)
    rows = first(ArraySource(np.ones((2, 4, 4, 1), np.float64), labels))
    assert rows.image.dtype == np.float32
    assert rows.label.dtype == np.int32
    assert first(ArraySource(np.ones((2, 4), np.uint8), labels)).image.dtype == np.uint8


@pytest.mark.parametrize("shape", [(4,), (4, 7), (4, 2, 3)])
def test_float_labels_of_any_trailing_shape_become_float32(shape):
    source = ArraySource(np.zeros((4, 8)), np.zeros(shape))
    assert source.element_spec()["label"] == (shape[1:], np.dtype(np.float32))
    assert source.labels() is None


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 4, 4, 1), np.int64), np.zeros(3), r"`train` has dtype int64; .*uint8"),
        (torch.zeros((3, 4), dtype=torch.bfloat16), np.zeros(3), "dtype torch.bfloat16"),
        (np.zeros((3, 4)), np.zeros(2, int), "3 images and 2 labels"),
        (np.zeros((0, 4)), np.zeros(0, int), "`train` is empty"),
        (np.zeros((3, 4)), np.array(list("abc")), "labels of dtype <U1"),
        (np.zeros((3, 4)), np.array([0, 1, 2**40]), f"label {2**40}, which does not fit"),
        (np.zeros((3, 4)), np.zeros((3, 1), int), re.escape("Pass labels[:, 0]")),
        (np.zeros(3), np.zeros(3, int), "need a first axis"),
    ],
)
def test_unusable_arrays_are_errors_at_construction(images, labels, message):
    with pytest.raises(ValueError, match=message):
        DataModule((images, labels), batch_size=1)


def test_images_and_labels_in_the_place_of_train_and_val_are_an_error():
    images, labels = tiny_arrays()
    with pytest.raises(ValueError, match=r"looks like \(images, labels\)"):
        as_data_module((images, labels))
    with pytest.raises(ValueError, match=r"`train` is one array of shape \(64, 8, 8, 1\)"):
        DataModule(images, labels)
    with pytest.raises(ValueError, match=r"DataModule\(train, val, test\)"):
        DataModule(((images, labels), (images, labels)))


@pytest.mark.parametrize("data", [[1, 2], 3, (1,), {"train": 1}])
def test_data_of_an_unknown_form_is_an_error(data):
    with pytest.raises(ValueError, match="`data` is a"):
        as_data_module(data)
    with pytest.raises(ValueError, match="`train`"):
        DataModule(data)


class Examples(torch.utils.data.Dataset):
    """A map-style dataset of whatever `make` returns."""

    def __init__(self, make, num=4):
        self.make, self.num, self.reads = make, num, 0

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        self.reads += 1
        return self.make(index)


@pytest.mark.parametrize(
    ("image", "shape"),
    [
        (Image.new("L", (5, 4)), (4, 5, 1)),
        (Image.new("RGB", (5, 4)), (4, 5, 3)),
        (torch.zeros(3, 4, 5), (4, 5, 3)),
        (torch.zeros(13, 4, 5), (4, 5, 13)),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), (5, 3, 4)),
        (torch.zeros(7, 5, 3), (7, 5, 3)),
        (np.zeros((4, 5, 1)), (4, 5, 1)),
        (torch.zeros(6), (6,)),
    ],
)
def test_an_example_image_becomes_a_numpy_array_in_hwc(image, shape):
    source = MapSource(Examples(lambda index: (image, index)))
    rows = first(source)
    assert type(rows.image) is np.ndarray
    assert rows.image.shape == (1, *shape)
    assert source.element_spec()["image"] == (shape, rows.image.dtype)


def test_a_torch_image_keeps_its_pixels_when_its_axes_move():
    image = torch.arange(24, dtype=torch.uint8).reshape(3, 2, 4)
    rows = first(MapSource([(image, 0)]))
    for channel in range(3):
        np.testing.assert_array_equal(rows.image[0, :, :, channel], image[channel].numpy())


def test_pil_images_of_other_modes_are_an_error_naming_the_example():
    with pytest.raises(ValueError, match=r"`train\[0\]` is a PIL image of mode 'RGBA'"):
        DataModule(Examples(lambda index: (Image.new("RGBA", (4, 4)), 0)), batch_size=1)


@pytest.mark.parametrize("label", [2, np.int64(2), torch.tensor(2), True])
def test_integer_labels_of_any_kind_become_int32(label):
    rows = first(MapSource(Examples(lambda index: {"image": np.zeros((2, 2, 1)), "label": label})))
    assert rows.label.tolist() == [int(label)]
    assert rows.label.dtype == np.int32


def test_examples_of_differing_shape_are_an_error_naming_index_and_both_shapes():
    source = MapSource(Examples(lambda i: (np.zeros((4 + i // 3, 4, 1)), 0)), argument="train")
    message = "`train`[3] has image of shape (5, 4, 1) and dtype float32, "
    message += "`train`[0] has shape (4, 4, 1)"
    with pytest.raises(ValueError, match=re.escape(message)):
        source.take(np.arange(4), seed=0, epoch=0)


# ---- Labels that are known without reading all examples ---------------------------------------


def pair(index):
    return np.zeros((2, 2, 1)), index % 5


def dataset_with(make=pair, num=200, **attributes):
    dataset = Examples(make, num)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


CLASSES = [index % 5 for index in range(200)]


@pytest.mark.parametrize("name", ["targets", "labels"])
@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, torch.tensor, pd.Series, lambda x: np.array(x, np.uint8)]
)
def test_an_attribute_that_agrees_with_a_sample_holds_the_labels(name, kind):
    dataset = dataset_with(**{name: kind(CLASSES)})
    source = MapSource(dataset)
    labels = source.labels()
    assert labels.dtype == np.int32
    assert labels.tolist() == CLASSES
    assert dataset.reads <= 1 + 2 * 16 + 5
    reads = dataset.reads
    assert source.labels() is labels
    assert dataset.reads == reads  # once is enough


class Wrapper(torch.utils.data.Dataset):
    """Passes on every attribute of a dataset, and changes its labels."""

    def __init__(self, dataset, change):
        self.dataset, self.change = dataset, change

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, label = self.dataset[index]
        return image, self.change(label)


@pytest.mark.parametrize(
    "change",
    [
        lambda label: label + 1,
        lambda label: int(label == 3),
        lambda label: 7 if label == 4 else label,  # one class of five
        float,
        lambda label: np.eye(5, dtype=np.float32)[label] * 0.9 + 0.02,
        lambda label: np.full(3, label),
    ],
)
@pytest.mark.parametrize("part", [False, True])
def test_an_attribute_that_disagrees_with_the_examples_is_not_used(change, part):
    dataset = Wrapper(dataset_with(targets=np.array(CLASSES)), change)
    dataset = Subset(dataset, range(50, 150)) if part else dataset
    source = MapSource(dataset)
    assert source.labels() is None
    rows = source.take(np.array([4]), seed=0, epoch=0)
    assert rows.label.tolist() == [np.asarray(change(4)).tolist()]  # 4 and 54 are of one class


def test_a_rare_class_that_is_renamed_is_found():
    labels = [9 if index == 150 else index % 2 for index in range(1000)]

    def make(index):
        return np.zeros((2, 2, 1)), min(labels[index], 2)

    assert MapSource(dataset_with(make, 1000, targets=labels)).labels() is None


def test_the_parts_of_a_dataset_have_its_labels_and_their_order():
    dataset = dataset_with(targets=CLASSES)
    part = Subset(Subset(dataset, range(100, 200)), [3, 1, 4, 1])
    assert MapSource(part).labels().tolist() == [3, 1, 4, 1]
    negative = Subset(dataset, [-1, 0])
    assert MapSource(negative).labels().tolist() == [4, 0]


class Mixed(torch.utils.data.ConcatDataset):
    targets = CLASSES  # of its first part alone


class Fails:
    """A dataset whose attribute cannot be read."""

    def __len__(self):
        return 200

    def __getitem__(self, index):
        return pair(index)

    @property
    def targets(self):
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    "dataset",
    [
        dataset_with(targets=list("abcde") * 40),
        dataset_with(targets=[float(x) for x in CLASSES]),
        dataset_with(targets=CLASSES[:-1]),
        dataset_with(targets=[[x] for x in CLASSES]),
        dataset_with(targets=lambda: CLASSES),
        dataset_with(targets=[[1], [1, 2]]),
        dataset_with(targets=CLASSES, target_transform=lambda label: label),
        dataset_with(targets={"a": 1}),
        Mixed([dataset_with(), dataset_with(lambda i: (np.zeros((2, 2, 1)), 9))]),
        Subset(dataset_with(labels=None), [1, 2]),
        Fails(),
    ],
)
def test_an_attribute_that_holds_no_class_of_each_example_is_not_used(dataset):
    assert MapSource(dataset).labels() is None


def test_examples_that_cannot_be_read_say_nothing_of_the_labels():
    def make(index):
        if index % 3 == 1:
            raise OSError("damaged")
        return pair(index)

    source = MapSource(dataset_with(make, targets=CLASSES), on_bad_sample="skip")
    assert source.labels().tolist() == CLASSES
    assert source.digest() is None


@pytest.mark.parametrize("kind", ["global", "numpy", "python", "torch", "legacy"])
def test_reading_a_sample_leaves_every_generator_where_it_was(kind):
    generators = {
        "numpy": np.random.default_rng(5), "python": random.Random(5),
        "torch": torch.Generator().manual_seed(5), "legacy": np.random.RandomState(5),
    }  # fmt: skip
    draws = {
        "global": lambda: np.random.rand() + random.random() + torch.rand(()).item(),
        "numpy": generators["numpy"].random,
        "python": generators["python"].random,
        "torch": lambda: torch.rand((), generator=generators["torch"]).item(),
        "legacy": generators["legacy"].rand,
    }

    def make(index):
        return np.full((2, 2, 1), draws[kind]()), index % 5

    dataset = dataset_with(make, targets=CLASSES, transforms=[generators.get(kind)])
    source = MapSource(Subset(dataset, range(200)))  # reads example 0
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert source.labels() is not None
    source.digest()
    after = draws[kind]()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    if kind == "torch":
        generators["torch"].manual_seed(5)
    elif kind == "legacy":
        generators["legacy"].seed(5)
    elif kind == "python":
        generators["python"].seed(5)
    elif kind == "numpy":
        generators["numpy"].bit_generator.state = np.random.default_rng(5).bit_generator.state
    if kind != "global":
        draws[kind]()  # example 0
    assert after == draws[kind]()


# ---- Digests -----------------------------------------------------------------------------------


def digest_of(split, **options):
    return DataModule(split, batch_size=1, **options).train.sample_digest()


def test_arrays_of_any_one_bit_more_have_another_digest():
    images, labels = tiny_arrays(num=8)
    first = digest_of((images, labels))
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert digest_of((images.copy(), labels.astype(np.int64))) == first
    assert digest_of((np.asfortranarray(images), labels)) == first
    for index in (0, 5):
        changed, others = images.copy(), labels.copy()
        changed[index, 3, 3, 0] ^= 1
        others[index] ^= 1
        assert digest_of((changed, labels)) != first
        assert digest_of((images, others)) != first
    assert digest_of((images[::-1], labels)) != first
    assert digest_of((images.reshape(8, 4, 16, 1), labels)) != first
    assert digest_of((images.astype(np.float32), labels)) != first


def test_of_large_arrays_evenly_spaced_rows_are_digested(monkeypatch):
    monkeypatch.setattr(array_source, "_WHOLE_BYTES", 2000)
    images, labels = np.zeros((1000, 5), np.uint8), np.zeros(1000, np.int32)
    first = digest_of((images, labels))
    for changed_row, is_seen in ((0, True), (1, False), (999, True)):
        changed = images.copy()
        changed[changed_row] = 1
        assert (digest_of((changed, labels)) != first) == is_seen
    assert digest_of((images[:-1], labels[:-1])) != first


def noisy(index):
    return np.full((2, 2, 1), np.random.rand() + torch.rand(()).item() + random.random()), index


def test_the_digest_of_a_dataset_is_the_same_whatever_the_state_of_the_generators():
    first = digest_of(Examples(noisy, 40))
    np.random.rand(3), torch.rand(3), random.random()
    assert digest_of(Examples(noisy, 40)) == first
    assert digest_of(Examples(noisy, 40), num_workers=2) == first
    assert digest_of(Examples(noisy, 41)) != first
    assert digest_of(Examples(lambda i: (noisy(i)[0], i + (i == 39)), 40)) != first


def test_a_digest_is_the_same_in_another_process():
    program = (
        "import numpy as np; from worker_datasets import Noisy\n"
        "from nnx_alexnet.data import DataModule\n"
        "np.random.rand(7)\n"
        "print(DataModule(Noisy(), batch_size=4).train.sample_digest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [DataModule(Noisy(), batch_size=4).train.sample_digest()]


def test_examples_that_differ_at_each_reading_and_iterables_have_no_digest():
    counter = itertools.count()
    assert digest_of(Examples(lambda i: (np.full((2, 2, 1), 1.0 * next(counter)), i))) is None
    generator = np.random.default_rng(0)
    dataset = Examples(lambda i: (np.full((2, 2, 1), generator.random()), i % 2))
    dataset.generator, dataset.targets = generator, [0, 1, 0, 1]  # which is restored
    data = DataModule(dataset, batch_size=1)
    assert data.train.labels() is not None
    assert data.train.sample_digest() is None
    assert digest_of([tiny_arrays(num=4)]) is None


def test_a_dataset_that_fills_one_buffer_again_and_again_gives_each_example_its_own():
    buffer = np.zeros((2, 2, 1), np.float32)

    def make(index):
        buffer[:] = index
        return buffer, index

    rows = MapSource(Examples(make)).take(np.array([2, 0, 3]), seed=0, epoch=0)
    assert rows.image[:, 0, 0, 0].tolist() == [2, 0, 3]


# ---- Random draws of a dataset ------------------------------------------------------------------


def test_a_dataset_with_its_own_random_transform_repeats_itself_and_leaves_the_generators_alone():
    def make(index):
        noise = torch.rand(1).item() + np.random.rand()
        return np.full((2, 2, 1), noise), index

    source = MapSource(Examples(make))
    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    some = source.take(np.array([2, 1]), seed=0, epoch=0)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert torch.equal(torch.get_rng_state(), torch_state)
    again = source.take(np.array([1]), seed=0, epoch=0)
    np.testing.assert_array_equal(some.image[1], again.image[0])
    assert not np.array_equal(some.image[0], some.image[1])
    assert not np.array_equal(again.image, source.take(np.array([1]), seed=0, epoch=1).image)


def test_two_threads_read_the_examples_that_each_would_read_alone():
    """They share the global generators, which are seeded for each example."""

    def make(index):
        first = np.random.rand()
        time.sleep(1e-4)  # leaves the other thread its turn
        return np.full((2, 2, 1), first + np.random.rand() + torch.rand(()).item()), index

    def read(seed, found):
        source = MapSource(Examples(make, 20))
        images = [source.take(np.arange(20), seed=seed, epoch=epoch).image for epoch in range(3)]
        found[seed] = np.concatenate(images)

    alone, together = {}, {}
    for seed in (1, 2):
        read(seed, alone)
    state = np.random.get_state()[1].copy()
    threads = [threading.Thread(target=read, args=(seed, together)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        np.testing.assert_array_equal(together[seed], alone[seed])
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_two_threads_that_share_an_iterable_each_get_all_of_its_batches():
    batches = [tiny_arrays(num=2) for _ in range(50)]
    source = IterableSource(batches)
    assert source.batch_size == 2  # a pass is open, which only one of them may take
    barrier, counts = threading.Barrier(2), []

    def read():
        barrier.wait()
        counts.append(len(list(source.batches())))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [50, 50]


def test_a_list_is_read_as_examples_or_as_batches_by_what_it_holds():
    images, labels = tiny_arrays(num=4)
    assert isinstance(as_source(list(zip(images, labels, strict=True)), argument="x"), MapSource)
    assert isinstance(as_source([(images, labels)], argument="x"), IterableSource)
    assert isinstance(as_source([{"image": images, "label": labels}], argument="x"), IterableSource)


def test_torch_batches_in_nchw_are_turned_to_nhwc_and_that_is_said_once(caplog, monkeypatch):
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    loader = DataLoader(TensorDataset(images, torch.tensor([1, 2])), batch_size=1)
    monkeypatch.setattr(logging.getLogger("nnx_alexnet"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="nnx_alexnet"):
        rows = list(IterableSource(loader, argument="train").batches())
    assert [record.message for record in caplog.records] == [
        "`train`: torch images [1, 3, 4, 5] are taken as NCHW, turned to NHWC."
    ]
    got = np.concatenate([row.image for row in rows])
    np.testing.assert_array_equal(got, images.numpy().transpose(0, 2, 3, 1))
    assert type(rows[0].label) is np.ndarray


def test_a_generator_that_is_exhausted_says_what_to_pass_instead():
    images, labels = tiny_arrays(num=4)
    source = IterableSource(((images, labels) for _ in range(2)), argument="train")
    assert source.batch_size == 4
    assert len(list(source.batches())) == 2  # looking at the first batch did not lose it
    with pytest.raises(
        ValueError, match=r"a generator.*Pass a list of batches, a torch DataLoader"
    ):
        list(source.batches())


def test_an_iterable_whose_second_pass_is_empty_is_an_error():
    class Once:
        def __init__(self):
            self.batches = iter([tiny_arrays(num=4)])

        def __iter__(self):
            return iter(list(self.batches))

    source = IterableSource(Once())
    assert len(list(source.batches())) == 1
    with pytest.raises(ValueError, match="has none for another pass"):
        list(source.batches())


def test_an_empty_iterable_is_an_error():
    with pytest.raises(ValueError, match="`val` is empty"):
        IterableSource([], argument="val").element_spec()


def test_batches_that_do_not_fit_to_the_first_are_an_error():
    images, labels = tiny_arrays(num=4)
    good, other = (images, labels), (images.astype(np.float32), labels)
    with pytest.raises(ValueError, match=r"Batch 1 .*float32\[4, 8, 8, 1\].*all must be alike"):
        list(IterableSource([good, other]).batches())

    class Changes:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter([good if self.passes == 1 else other])

    source = IterableSource(Changes())
    assert len(list(source.batches())) == 1
    with pytest.raises(ValueError, match=r"Batch 0 .*all must be alike"):
        list(source.batches())


def test_an_iterable_of_single_examples_is_an_error_that_names_the_torch_loader():
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(1, 4, 4), 3

        def __len__(self):
            return 1

    with pytest.raises(ValueError, match=r"put into batches by torch\.utils\.data\.DataLoader"):
        as_source(Stream(), argument="train").element_spec()


def test_a_wrong_item_is_an_error_that_says_the_form():
    with pytest.raises(ValueError, match="a tuple of length 3; expected"):
        IterableSource([(1, 2, 3)]).element_spec()
    with pytest.raises(ValueError, match=r"keys \['pixels'\]"):
        MapSource(Examples(lambda index: {"pixels": 1}))


def test_a_data_module_knows_classes_shape_and_splits():
    train, val = tiny_arrays(num=64), tiny_arrays(num=20, seed=1)
    data = as_data_module((train, val))
    assert (data.num_classes, data.image_shape, data.test) == (4, (8, 8, 1), None)
    named = DataModule(train, batch_size=8, class_names=("a", "b", "c", "d", "e"))
    assert named.num_classes == 5
    assert DataModule(train, transform=ImageTransform(6)).image_shape == (6, 6, 1)
    assert as_data_module(data) is data
    assert named.describe() == {
        "name": "data",
        "batch_size": 8,
        "drop_last": True,
        "examples": {"train": 64},
        "labels": hashlib.sha256(train[1].tobytes()).hexdigest(),
        "image": [8, 8, 1],
        "transform": dataclasses.asdict(ImageTransform()),
        "num_classes": 5,
        "class_names": ["a", "b", "c", "d", "e"],
    }


def test_a_data_module_checks_names_and_shapes_against_each_other():
    train = tiny_arrays(num=64)
    with pytest.raises(ValueError, match="3 names, but the label 3 occurs in `train`"):
        DataModule(train, class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"`val` has images of shape \(9, 9, 1\)"):
        DataModule(train, tiny_arrays(size=9))
    assert DataModule(train, tiny_arrays(size=9), transform=ImageTransform(8)).val is not None


def test_unlabelled_images_get_labels_of_the_train_splits_kind():
    images, _ = tiny_arrays(num=8)
    data = DataModule((images, np.zeros((8, 3))), batch_size=4)
    (batch,) = data.unlabelled(images[:3]).batches(multiple=1)
    assert batch["label"].shape == (4, 3)
    assert batch["mask"].tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("low", "high", "is_said"), [(0, 255, True), (0, 1, False), (-9, 200, False)]
)
def test_floats_that_look_like_bytes_are_said_to_stay_as_they_are(warnings, low, high, is_said):
    images = np.linspace(low, high, 4 * 6 * 6, dtype=np.float32).reshape(4, 6, 6, 1)
    ArraySource(images, np.zeros(4, np.int32), argument="train")
    said = [record.getMessage() for record in warnings.records if record.levelname == "WARNING"]
    assert bool(said) == is_said
    assert all("`train` has floating-point images from 0 to 255" in each for each in said)

"""Arrays in files: `load_data("npz:PATH")`."""

import itertools

import numpy as np
import pytest

from nnx_alexnet.data import load_data

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 9, 9), dtype=np.uint8)
LABELS = np.arange(40) % 2


def saved(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def sizes(data):
    return [
        None if split is None else split.num_examples for split in (data.train, data.val, data.test)
    ]


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"image": IMAGES, "label": LABELS}, [36, 4, None]),
        ({"train/image": IMAGES, "train/label": LABELS}, [36, 4, None]),
        (
            {"train/image": IMAGES, "train/label": LABELS, "valid/image": IMAGES[:5],
             "valid/label": LABELS[:5], "test/image": IMAGES[:7], "test/label": LABELS[:7]},
            [40, 5, 7],
        ),
        (
            {"x_train": IMAGES, "y_train": LABELS[:, None], "x_test": IMAGES[:3],
             "y_test": LABELS[:3, None]},
            [36, 4, 3],
        ),
        (
            {"train_images": IMAGES, "train_labels": LABELS[:, None], "val_images": IMAGES[:6],
             "val_labels": LABELS[:6, None], "test_images": IMAGES[:2],
             "test_labels": LABELS[:2, None]},
            [40, 6, 2],
        ),
    ],
    ids=["plain", "train", "all splits", "Keras", "MedMNIST"],
)  # fmt: skip
def test_the_names_of_arrays_determine_splits_and_keys(arrays, expected, tmp_path):
    data = load_data(saved(tmp_path / "a.npz", **arrays), image_size=16, batch_size=4)
    assert sizes(data) == expected
    assert (data.image_shape, data.num_classes) == ((16, 16, 1), 2)
    batch = next(data.train.batches())
    assert (batch["image"].shape, batch["label"].shape) == ((4, 9, 9, 1), (4,))
    assert np.bincount(data.val.labels()).min() >= 1


def test_held_out_rows_and_the_others_are_all_rows(tmp_path):
    name = saved(tmp_path / "a.npz", number=np.arange(40))
    data = load_data(name, batch_size=1, drop_last=False)
    found = [
        [int(batch["number"][0]) for batch in each.batches()] for each in (data.train, data.val)
    ]
    assert sorted(itertools.chain(*found)) == [*range(40)]
    other = load_data(name, batch_size=1, seed=1)
    assert [int(batch["number"][0]) for batch in other.val.batches()] != found[1]


def test_columns_without_images_keep_keys_and_values(tmp_path):
    tokens = np.arange(80, dtype=np.uint16).reshape(40, 2)
    name = saved(tmp_path / "a.npz", tokens=tokens, extra=np.zeros(40), label=np.linspace(0, 1, 40))
    data = load_data(name, batch_size=4, columns=["tokens", "label"], rename={"tokens": "words"})
    batch = next(data.val.batches())
    assert {*batch} == {"words", "label", "mask", "index"}
    assert batch["words"].dtype == np.uint16
    assert (data.image_shape, data.num_classes) == (None, None)
    assert data.transform.describe() == load_data(name, batch_size=4).transform.describe()


def test_images_are_standardised_by_the_train_split(tmp_path):
    name = saved(
        tmp_path / "a.npz", **{"train/image": IMAGES[..., None], "val/image": IMAGES[:4, ..., None]}
    )
    data = load_data(name, image_size=9, batch_size=4)
    np.testing.assert_allclose(data.transform.mean, (IMAGES / 255).mean(), rtol=1e-6)
    np.testing.assert_allclose(data.transform.std, (IMAGES / 255).std(), rtol=1e-6)
    floats = IMAGES[..., None].astype(np.float32)
    data = load_data(saved(tmp_path / "b.npz", image=floats / 255), image_size=9, batch_size=4)
    assert abs(data.transform.mean[0] - (IMAGES / 255).mean()) < 0.02


def folder_of(tmp_path, **splits):
    for split, arrays in splits.items():
        (tmp_path / split).mkdir()
        for key, array in arrays.items():
            np.save(tmp_path / split / f"{key}.npy", array)
    return f"npz:{tmp_path}"


def test_a_folder_is_memory_mapped(tmp_path):
    train, val = (
        {"image": IMAGES[..., None], "label": LABELS},
        {"image": IMAGES[:4, ..., None], "label": LABELS[:4]},
    )
    data = load_data(folder_of(tmp_path, train=train, val=val), image_size=9, batch_size=4)
    assert sizes(data) == [40, 4, None]
    assert data.train.arrays() is None  # they are not in memory
    (batch,) = data.val.batches()
    np.testing.assert_array_equal(batch["image"], IMAGES[:4, ..., None])


def test_a_part_of_a_memory_mapped_folder_is_held_out(tmp_path):
    name = folder_of(tmp_path, train={"image": IMAGES, "label": LABELS})
    data = load_data(name, image_size=9, batch_size=4)
    assert sizes(data) == [36, 4, None]
    assert np.bincount(data.val.labels()).tolist() == [2, 2]
    batch = next(data.val.batches())
    assert any(np.array_equal(batch["image"][0, ..., 0], image) for image in IMAGES)


def test_missing_files_are_reported_with_the_form_of_the_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file or folder.*npz:PATH"):
        load_data(f"npz:{tmp_path}/none.npz")
    with pytest.raises(FileNotFoundError, match=r"has no file train/KEY\.npy"):
        load_data(f"npz:{tmp_path}")


@pytest.mark.parametrize("split", ["train/", ""])
def test_objects_are_refused_without_unpickling_them(split, tmp_path):
    name = saved(tmp_path / "a.npz", **{f"{split}x": np.array([{}, None])})
    with pytest.raises(ValueError, match=rf"The array '{split}x' in .* contains Python objects"):
        load_data(name)


def test_files_that_are_no_archives_are_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"\x80\x04N.")
    with pytest.raises(ValueError, match=r"cannot be read as an \.npz file"):
        load_data(f"npz:{tmp_path}/a.npz")
    np.save(tmp_path / "b.npy", IMAGES)
    with pytest.raises(ValueError, match="contains a single array"):
        load_data(f"npz:{tmp_path}/b.npy")
    (tmp_path / "train").mkdir()
    np.save(tmp_path / "train/x.npy", np.array([{}]))
    with pytest.raises(ValueError, match=r"train/x\.npy' cannot be mapped"):
        load_data(f"npz:{tmp_path}")


def test_splits_that_do_not_fit_together_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no training arrays, only the splits \['test'\]"):
        load_data(saved(tmp_path / "a.npz", **{"test/x": LABELS}))
    name = saved(tmp_path / "b.npz", **{"train/x": LABELS, "train/y": LABELS, "val/x": LABELS})
    with pytest.raises(ValueError, match=r"The split 'val' of .* has no array 'y'"):
        load_data(name)

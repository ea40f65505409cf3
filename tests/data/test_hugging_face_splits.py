"""Datasets of Hugging Face by path: `load_data("hf:...")`."""

import json

import numpy as np
import pytest
from data_helpers import images_of, same
from PIL import Image

from nnx_alexnet.data import hugging_face_splits, load_data

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def pictures(num, *, sides=(9,), mode="L"):
    rng = np.random.default_rng(num)
    channels = () if mode == "L" else (3,)
    arrays = [
        rng.integers(0, 256, (sides[i % len(sides)], 12, *channels), dtype=np.uint8)
        for i in range(num)
    ]
    features = datasets.Features({
        "img": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
        "text": datasets.Value("string"),
    })  # fmt: skip
    columns = {
        "img": [Image.fromarray(array) for array in arrays],
        "label": [i % 2 for i in range(num)],
        "text": ["a word"] * num,
    }
    return datasets.Dataset.from_dict(columns, features), arrays


def loaded(tmp_path, **arguments):
    given = {"columns": ["img", "label"], "rename": {"img": "image"}, "num_workers": 0}
    return load_data(f"hf:{tmp_path}/saved", batch_size=4, **{**given, **arguments})


def test_images_of_one_size_are_read_into_memory(tmp_path):
    train, arrays = pictures(40)
    test, test_arrays = pictures(6)
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "saved")
    data = loaded(tmp_path, image_size=16)
    assert [x.num_examples for x in (data.train, data.val, data.test)] == [36, 4, 6]
    assert data.train.arrays()["image"].shape == (36, 9, 12, 1)
    assert (data.class_names, data.image_shape) == (("cat", "dog"), (16, 16, 1))
    np.testing.assert_array_equal(images_of(data.test)[..., 0], test_arrays)
    assert data.test.labels().tolist() == [0, 1] * 3
    kept = {image.tobytes() for image in (*images_of(data.train), *images_of(data.val))}
    assert kept == {array.tobytes() for array in arrays}
    assert np.bincount(data.val.labels()).tolist() == [2, 2]


@pytest.mark.parametrize(("augment", "side"), [(True, 36), (False, 32)])
def test_images_of_several_sizes_become_squares(augment, side, tmp_path):
    pictures(40, sides=(20, 30), mode="RGB")[0].save_to_disk(tmp_path / "saved")
    data = loaded(tmp_path, image_size=32, augment=augment)
    assert data.train.arrays() is None
    assert next(data.val.batches())["image"].shape == (4, side, side, 3)
    assert data.image_shape == (32, 32, 3)
    assert data.train.labels().shape == (36,)


def test_large_splits_are_read_on_demand(tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face_splits, "_MOST_BYTES", 1000)
    tokens = np.arange(4000, dtype=np.int16).reshape(40, 100)
    dataset = datasets.Dataset.from_dict({"tokens": tokens, "label": np.arange(40) / 40})
    dataset.save_to_disk(tmp_path / "saved")
    data = load_data(f"hf:{tmp_path}/saved", batch_size=4)
    assert (data.train.arrays(), data.train.num_workers, data.image_shape) == (None, 0, None)
    batch = next(data.val.batches())
    assert batch["tokens"].dtype == np.int16
    np.testing.assert_array_equal(batch["tokens"][0] // 100, (batch["label"][0] * 40).round())


def test_sequences_of_different_lengths_are_padded(tmp_path):
    tokens = [[1] * (1 + i % 5) for i in range(40)]
    datasets.Dataset.from_dict({"words": tokens}).save_to_disk(tmp_path / "saved")
    name = f"hf:{tmp_path}/saved"
    with pytest.raises(ValueError, match="has lists of 1 and of 5 values; pad them with `pad_to`"):
        load_data(name, batch_size=4)
    data = load_data(
        name, batch_size=4, rename={"words": "tokens"}, pad_to={"tokens": (6,)},
        pad_values={"tokens": -1},
    )  # fmt: skip
    (batch,) = data.val.batches()
    assert batch["tokens"].shape == (4, 6)
    assert {*batch["tokens"].ravel().tolist()} == {1, -1}


def test_names_of_splits_are_recognised(tmp_path, printed):
    split = datasets.Dataset.from_dict({"x": [*range(8)]})
    names = ("train", "validation", "test", "unsupervised")
    datasets.DatasetDict(dict.fromkeys(names, split)).save_to_disk(tmp_path / "saved")
    data = load_data(f"hf:{tmp_path}/saved", batch_size=4)
    assert [x.num_examples for x in (data.train, data.val, data.test)] == [8, 8, 8]
    assert "that are not used: unsupervised" in printed()
    datasets.DatasetDict({"test": split}).save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match=r"has the splits \['test'\]; it needs a split 'train'"):
        load_data(f"hf:{tmp_path}/other")


def test_a_test_split_without_labels_is_not_used(tmp_path, printed):
    features = datasets.Features({"label": datasets.ClassLabel(names=["a", "b"])})
    train, test = (
        datasets.Dataset.from_dict({"label": labels}, features) for labels in ([0, 1] * 8, [-1] * 4)
    )
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "saved")
    data = load_data(f"hf:{tmp_path}/saved", batch_size=4)
    assert data.test is None
    assert "has no labels and is not used" in printed()


def test_texts_are_refused_with_the_other_columns_as_the_remedy(tmp_path):
    pictures(8)[0].save_to_disk(tmp_path / "saved")
    message = r"'text' \(string\)\. Leave them out, columns=\['img', 'label'\] in load_data"
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path, columns=None)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "folder"])
def test_files_of_tables_are_read(kind, tmp_path):
    rows = [{"a": i, "b": i / 2} for i in range(20)]
    path = tmp_path / ("data" if kind == "folder" else f"data.{kind}")
    if kind == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        text = "\n".join(["a,b", *(f"{row['a']},{row['b']}" for row in rows)])
        if kind == "folder":
            path.mkdir()
            (path / "train.csv").write_text(text)
            (path / "test.csv").write_text(text)
        else:
            path.write_text(text)
    data = load_data(f"hf:{path}", batch_size=2)
    assert (data.train.num_examples, data.val.num_examples) == (18, 2)
    assert (data.test is not None) == (kind == "folder")
    batch = next(data.train.batches())
    np.testing.assert_array_equal(batch["a"], batch["b"] * 2)


def test_nothing_is_downloaded_unless_it_is_allowed():
    with pytest.raises(FileNotFoundError, match=r"'hf:owner/name'.*download=True"):
        load_data("hf:owner/name")


def test_names_on_the_hub_may_have_a_configuration(monkeypatch):
    calls = []

    def load_dataset(*arguments):
        calls.append(arguments)
        return datasets.Dataset.from_dict({"x": [*range(20)]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for name in ("mnist", "owner/name", "owner/name/part"):
        assert load_data(f"hf:{name}", download=True, batch_size=2).train.num_examples == 18
    assert calls == [("mnist",), ("owner/name",), ("owner/name", "part")]


def test_errors_of_the_library_name_the_dataset(tmp_path):
    (tmp_path / "saved").mkdir()
    with pytest.raises(ValueError, match=r"saved'\) cannot be loaded by the library datasets: "):
        load_data(f"hf:{tmp_path}/saved")


def test_workers_decode_images(tmp_path):
    pictures(40, sides=(20, 30), mode="RGB")[0].save_to_disk(tmp_path / "saved")
    data, here = (loaded(tmp_path, image_size=32, num_workers=num) for num in (1, 0))
    try:
        found = next(data.train.batches(epoch=1))["image"]
    finally:
        data.close()
    np.testing.assert_array_equal(found, next(here.train.batches(epoch=1))["image"])


def test_rows_that_are_read_on_demand_are_kept_in_a_cache(tmp_path):
    pictures(40, sides=(20, 30), mode="RGB")[0].save_to_disk(tmp_path / "saved")
    plain = loaded(tmp_path, image_size=32, num_workers=0)
    # 16 of the 36 examples are the sample that shows the labels; one is the first of its class.
    for lacking in (19, 0):
        data = loaded(tmp_path, image_size=32, num_workers=0, cache=tmp_path / "decoded")
        assert len(data.train.cached.missing()) == lacking
        data.fill_cache()
        assert same(data.train.batches(epoch=1), plain.train.batches(epoch=1))
        assert data.sample_digests() == plain.sample_digests()
    pictures(40, sides=(9,))[0].save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"`cache` is for map-style datasets"):
        loaded(tmp_path, cache=tmp_path / "decoded")  # it is read into memory


def test_masks_that_would_be_resized_like_pictures_are_refused(tmp_path):
    split, _ = pictures(20, sides=(9, 10))
    split.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r'images in `label`.*masks=\("label",\)'):
        loaded(tmp_path, columns=["img"], rename={"img": "label"}, augment=False)

"""Datasets of other libraries as splits: tf.data, pandas, and several splits in one object."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from nnx_alexnet.data import DataModule
from nnx_alexnet.data.adapters import adapted, frame_columns, known_class_names


class FakeTensorFlowDataset:
    """Stands in for a `tf.data.Dataset` of batches."""

    def __init__(self, rank=1):
        shape = SimpleNamespace(rank=rank)
        self.element_spec = (SimpleNamespace(shape=shape), {"y": SimpleNamespace(shape=shape)})

    def as_numpy_iterator(self):
        for first in (0, 2):
            yield {"x": np.arange(first, first + 2, dtype=np.int8)}

    def __len__(self):
        return 2


def test_batches_of_tensorflow_are_read_in_each_epoch():
    data = DataModule(FakeTensorFlowDataset(), batch_size=3)
    assert data.train.num_batches == 2
    for epoch in range(2):
        found = [batch["x"].tolist() for batch in data.train.batches(epoch=epoch)]
        assert found == [[0, 1], [2, 3]]


def test_single_examples_of_tensorflow_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"`val` is a tf.data.Dataset of single .*batch\(64\)"):
        adapted(FakeTensorFlowDataset(rank=0), argument="val")


def test_a_frame_is_the_dict_of_its_columns():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [30, 40, 50], 7: [0.5, 1.5, 2.5], "ill": [True, False, True]})
    data = DataModule(frame[frame.age > 30], frame, batch_size=2)
    (batch,) = data.train.batches()
    order = np.argsort(batch["age"])
    assert batch["age"][order].tolist() == [40, 50]
    assert batch["7"][order].tolist() == [1.5, 2.5]
    assert batch["ill"].dtype == bool


def test_columns_of_a_frame_that_are_no_numbers_are_refused_by_name():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({
        "age": [30], "name": ["Ann"], "born": [pandas.Timestamp("2000-01-01")],
        "kind": pandas.Categorical(["a"]),
    })  # fmt: skip
    message = r"`train` has columns that are not numbers: 'name' \(str\), 'born' \(datetime64.*\), "
    with pytest.raises(ValueError, match=message + r"'kind' \(category\).*drop\(columns="):
        frame_columns(frame, "train")


def test_two_columns_of_a_frame_with_one_name_are_refused():
    pandas = pytest.importorskip("pandas")
    for columns in (["a", "a"], [1, "1"]):
        with pytest.raises(ValueError, match="`train` has two columns with the same name"):
            frame_columns(pandas.DataFrame([[1, 2]], columns=columns), "train")


def test_several_splits_in_one_are_refused_with_a_remedy():
    datasets = pytest.importorskip("datasets")
    split = datasets.Dataset.from_dict({"x": [1]})
    whole = datasets.DatasetDict({"train": split, "test": split})
    message = r"the splits \['train', 'test'\].*DataModule\(dataset\['train'\], dataset\['test'\]\)"
    with pytest.raises(ValueError, match=message):
        DataModule(whole)
    streams = datasets.IterableDatasetDict({"train": split.to_iterable_dataset()})
    with pytest.raises(ValueError, match="`train` is a IterableDatasetDict"):
        adapted(streams, argument="train")


def test_a_stream_of_hugging_face_resumes_after_its_newest_batch():
    datasets = pytest.importorskip("datasets")
    split = datasets.Dataset.from_dict({"x": [*range(10)]})
    batches = adapted(split.to_iterable_dataset(num_shards=3), argument="train", batch_size=4)
    iterator = iter(batches)
    next(iterator)
    state = batches.state_dict()
    rest = [batch["x"].tolist() for batch in iterator]
    batches.load_state_dict(state)
    assert [batch["x"].tolist() for batch in batches] == rest
    assert [*map(len, rest)] == [4, 2]


def test_the_epoch_reaches_a_shuffled_stream_of_hugging_face():
    datasets = pytest.importorskip("datasets")
    stream = datasets.Dataset.from_dict({"x": [*range(20)]}).to_iterable_dataset()
    data = DataModule(stream.shuffle(seed=1, buffer_size=20), batch_size=20)
    (first,), (second,), (again,) = (data.train.batches(epoch=epoch) for epoch in (0, 1, 0))
    assert sorted(second["x"].tolist()) == [*range(20)]
    assert first["x"].tolist() != second["x"].tolist()
    assert first["x"].tolist() == again["x"].tolist()


def test_class_names_are_those_of_the_column_label():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"label": datasets.ClassLabel(names=["a", "b"])})
    split = datasets.Dataset.from_dict({"label": [0]}, features)
    assert known_class_names(split) == ("a", "b")
    assert known_class_names(split.to_iterable_dataset()) == ("a", "b")
    assert known_class_names(split.rename_column("label", "kind")) is None


@pytest.mark.parametrize("name", ["datasets", "grain"])
def test_a_module_of_the_user_may_have_the_name_of_a_library(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(Dataset=list))
    rows = [{"x": 1.0}]
    assert adapted(rows, argument="train") is rows


def test_no_library_is_imported_for_arrays():
    program = (
        "import sys, numpy as np\n"
        "from nnx_alexnet import DataModule\n"
        "DataModule({'x': np.zeros(4)}, batch_size=2)\n"
        "print({'datasets', 'grain', 'pandas', 'tensorflow', 'pyarrow'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"

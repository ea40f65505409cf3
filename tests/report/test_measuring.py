import jax
import numpy as np
import pytest
from flax import nnx
from helpers import TinyNet, loss_task, tiny_arrays, tree_equal
from small_runs import tiny_data, tiny_trainer

from nnx_alexnet import BinaryClassification, DataModule, MultiLabelClassification
from nnx_alexnet.checkpoints import load_checkpoint
from nnx_alexnet.data import ImageTransform
from nnx_alexnet.report import measuring
from nnx_alexnet.report.measuring import measure


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    trained = tiny_trainer(log_dir=tmp_path_factory.mktemp("logs"))
    trained.fit()
    return trained


def test_the_measured_predictions_are_those_of_the_checkpoint(trainer):
    before = jax.tree.map(np.asarray, nnx.state(trainer.model, nnx.Param, nnx.BatchStat))
    found = measure(trainer, trainer.run_dir, 4)
    assert (found.checkpoint.step, found.checkpoint.reason) == (4, "step 4, as requested")
    fresh = tiny_trainer()
    load_checkpoint(trainer.run_dir, fresh.model, which=4)
    np.testing.assert_allclose(
        found.splits["test"].probabilities, fresh.predict(fresh.data.test), rtol=1e-5
    )
    _, labels = tiny_arrays(num=30, seed=1)
    np.testing.assert_array_equal(found.splits["val"].labels, labels)
    after = jax.tree.map(np.asarray, nnx.state(trainer.model, nnx.Param, nnx.BatchStat))
    assert tree_equal(before, after)


def test_the_measurement_describes_data_model_and_examples(trainer):
    found = measure(trainer, trainer.run_dir)
    assert {name: counts.tolist() for name, counts in found.class_counts.items()} == {
        "train": [16] * 4, "val": [8, 8, 7, 7], "test": [8, 8, 7, 7],
    }  # fmt: skip
    assert found.data["examples"] == {"train": 64, "val": 30, "test": 30}
    assert found.summary.startswith("layer")
    split = found.splits["val"]
    assert split.is_whole
    images, _ = tiny_arrays(num=30, seed=1)
    for kind in ("correct", "uncertain", "wrong"):
        for each in split.examples[kind]:
            np.testing.assert_array_equal(each.fields["image"][0], images[each.index])
            assert each.confidence == pytest.approx(split.probabilities[each.index].max())
    maps = [each.saliency for each in split.examples["uncertain"]]
    assert [each is None for each in maps[:3]] == [False, False, True]
    assert maps[0].shape == (8, 8)


def test_a_large_split_is_measured_in_part(trainer, monkeypatch):
    monkeypatch.setattr(measuring, "MAX_EXAMPLES", 16)
    found = measure(trainer, trainer.run_dir)
    assert [len(split.labels) for split in found.splits.values()] == [16, 16]
    assert not found.splits["val"].is_whole
    assert [*found.class_counts] == ["train"]


def test_batches_of_an_iterable_and_one_hot_labels_are_measured(trainer):
    images, labels = tiny_arrays(num=30, seed=1)
    one_hot = np.eye(4, dtype=np.float32)[labels]
    batches = [(images[k : k + 16], one_hot[k : k + 16]) for k in (0, 16)]
    other = tiny_trainer(data=DataModule(batches, batches[:2]))
    found = measure(other, trainer.run_dir)
    assert [*found.splits] == ["val"]
    np.testing.assert_array_equal(found.splits["val"].labels, labels)


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_that_the_model_cannot_predict_are_refused(trainer, label):
    images, labels = tiny_arrays(num=30, seed=1)
    labels[3] = label
    other = tiny_trainer(data=DataModule(tiny_arrays(num=64), test=(images, labels), batch_size=16))
    with pytest.raises(ValueError, match=r"labels from -?\d to \d; the model predicts 4 classes"):
        measure(other, trainer.run_dir)


def test_a_model_that_predicts_nan_is_refused(trainer):
    images, labels = tiny_arrays(num=30, seed=1)
    other = tiny_trainer(data=DataModule(tiny_arrays(num=64), test=(images * np.nan, labels)))
    with pytest.raises(ValueError, match="predicts NaN"):
        measure(other, trainer.run_dir)


def test_a_model_without_gradients_is_measured_without_saliency(trainer, monkeypatch, warnings):
    def fail(*_):
        raise ValueError("no gradient")

    monkeypatch.setattr(measuring, "saliency", fail)
    found = measure(trainer, trainer.run_dir)
    assert found.splits["val"].examples["uncertain"][0].saliency is None
    assert "no saliency: no gradient" in warnings.text


def test_only_a_classification_with_another_split_is_measured(trainer):
    data = tiny_data()
    task = loss_task(lambda outputs, batch: outputs[:, 0])
    other = tiny_trainer(data=data, model=TinyNet(4, rngs=nnx.Rngs(0)), task=task)
    with pytest.raises(ValueError, match="does not predict the probabilities of classes"):
        measure(other, trainer.run_dir)
    alone = tiny_trainer(data=DataModule(tiny_arrays(num=64), batch_size=16))
    with pytest.raises(ValueError, match="neither a validation nor a test split"):
        measure(alone, trainer.run_dir)


def binary_data(*, several=False):
    images, labels = tiny_arrays(num=24)
    label = np.eye(2, dtype=np.int32)[labels % 2] if several else (labels % 2)[:, None]
    split = {"image": images, "label": label}
    transform = ImageTransform(crop=0.75, ten_crops=True)
    return DataModule(split, split, batch_size=8, transform=transform)


def test_a_binary_run_is_measured_as_two_classes(tmp_path):
    trainer = tiny_trainer(
        model=TinyNet(1, rngs=nnx.Rngs(0)), data=binary_data(), task=BinaryClassification(),
        log_dir=tmp_path, max_epochs=1,
    )  # fmt: skip
    trainer.fit()
    split = measure(trainer, trainer.run_dir).splits["val"]
    p = trainer.predict(trainer.data.val)
    np.testing.assert_allclose(split.probabilities, np.stack([1 - p, p], axis=1), rtol=1e-5)
    np.testing.assert_array_equal(split.labels, tiny_arrays(num=24)[1] % 2)
    shown = [each.saliency for each in split.examples["uncertain"]]
    assert shown[0].max() > 0  # also with ten crops, which are evaluated instead of the image


def test_a_report_of_several_labels_says_why_it_measures_nothing(tmp_path):
    trainer = tiny_trainer(
        model=TinyNet(2, rngs=nnx.Rngs(0)), data=binary_data(several=True), log_dir=tmp_path,
        task=MultiLabelClassification(), max_epochs=1,
    )  # fmt: skip
    trainer.fit()
    with pytest.raises(ValueError, match="MultiLabelClassification has several labels"):
        measure(trainer, trainer.run_dir)


def test_each_validation_set_is_measured(tmp_path):
    first, second = tiny_arrays(num=16), tiny_arrays(num=30, seed=1)
    data = DataModule(tiny_arrays(num=64), {"clean": first, "other": second}, batch_size=16)
    trainer = tiny_trainer(data=data, log_dir=tmp_path)
    trainer.fit()
    found = measure(trainer, trainer.run_dir)
    assert {name: len(split.labels) for name, split in found.splits.items()} == {
        "val/clean": 16, "val/other": 30,
    }  # fmt: skip
    np.testing.assert_array_equal(found.splits["val/other"].labels, second[1])
    assert [*found.class_counts] == ["train", "val/clean", "val/other"]

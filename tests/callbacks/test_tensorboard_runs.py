"""What the TensorBoard callback writes of real runs, read back from their event files."""

import io
import signal
import threading
from collections import Counter

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import (
    TinyNet,
    event_accumulator,
    event_values,
    events_of,
    tiny_arrays,
    trainer_of,
)
from PIL import Image
from tensorboard.plugins.custom_scalar import layout_pb2

from nnx_alexnet import Task, Trainer
from nnx_alexnet.callbacks import Callback, EarlyStopping, TensorBoard, tensorboard
from nnx_alexnet.dashboard.tags import image_tag
from nnx_alexnet.data import DataModule, ImageTransform
from nnx_alexnet.data.transform import augmentation_key

IMAGES = {image_tag(kind) for kind in tensorboard.IMAGE_KINDS}
STEPS = 4  # per epoch


def trainer_in(tmp_path, *callbacks, **arguments):
    train, val = tiny_arrays(num=64), tiny_arrays(num=40, seed=1)
    names = ("one", "two", "three", "four")
    transform = ImageTransform(12, mean=(0.4,), std=(0.2,), translate=0.1)
    data = DataModule(train, val, batch_size=16, class_names=names, transform=transform)
    arguments = {"max_epochs": 3, "log_every_n_steps": 2, "log_dir": tmp_path, **arguments}
    return trainer_of(data=data, callbacks=callbacks, **arguments)


def steps_of(run_dir):
    """Returns the steps at which each tag was written."""
    events = event_accumulator(run_dir)
    kinds = events.Tags()
    tags = [tag for kind in ("scalars", "images", "histograms", "tensors") for tag in kinds[kind]]
    return {tag: [event.step for event in events_of(events, tag)] for tag in tags}


def picture(run_dir, name, number=-1):
    _, image = event_values(run_dir, image_tag(name))[number]
    return np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))


def text(run_dir, tag):
    return event_values(run_dir, tag)[0][1].decode()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    trainer = trainer_in(tmp_path_factory.mktemp("run"), TensorBoard(gradients=True))
    trainer.fit()
    return trainer


@pytest.mark.charts
def test_images_are_written_after_epochs_1_and_2_and_at_the_end(run):
    steps = steps_of(run.run_dir)
    assert set(steps) >= IMAGES
    ends = [1 * STEPS, 2 * STEPS, 3 * STEPS]
    for tag in IMAGES - {"y_train/images"}:
        assert steps[tag] == ends
    assert steps["y_train/images"] == [1, STEPS + 1]
    assert steps["z_parameters/conv/kernel"] == ends
    assert steps["z_gradients/conv/kernel"] == [1, STEPS + 1]
    kinds = Counter(tag.split("/")[0] for tag in steps)
    assert kinds["z_parameters"] == kinds["z_gradients"] == 6


@pytest.mark.charts
def test_the_norm_of_the_parameters_is_written_after_each_epoch(run):
    arrays = jax.device_get(run.parameters()).values()
    expected = np.sqrt(sum(np.square(array.astype(np.float64)).sum() for array in arrays))
    norms = event_values(run.run_dir, "x_norm/parameters")
    assert [step for step, _ in norms] == [1 * STEPS, 2 * STEPS, 3 * STEPS]
    assert norms[-1][1] == pytest.approx(expected, rel=1e-5)
    gradients = event_values(run.run_dir, "x_norm/gradients")
    histograms = [
        [histogram for _, histogram in event_values(run.run_dir, f"z_gradients/{name}")]
        for name in run.parameters()
    ]
    expected = [
        np.sqrt(sum(each.sum_squares for each in step)) for step in zip(*histograms, strict=True)
    ]
    assert [step for step, _ in gradients] == [1, STEPS + 1]
    assert [value for _, value in gradients] == pytest.approx(expected, rel=1e-5)


@pytest.mark.charts
def test_each_tag_has_each_step_once_and_in_order(run):
    for tag, steps in steps_of(run.run_dir).items():
        assert steps == sorted(set(steps)), tag


@pytest.mark.charts
def test_the_texts_have_the_layers_and_the_configuration(run):
    summary = text(run.run_dir, "model/summary")
    assert summary.startswith("```\n")
    assert "dense" in summary
    assert "max_epochs: 3" in text(run.run_dir, "config")


@pytest.mark.charts
def test_training_and_validation_share_a_chart(run):
    content = event_values(run.run_dir, "custom_scalars__config__")[0][1]
    layout = layout_pb2.Layout.FromString(content)
    charts = {chart.title: [*chart.multiline.tag] for chart in layout.category[0].chart}
    assert charts == {name: [f"^train/{name}$", f"^val/{name}$"] for name in ("accuracy", "loss")}


@pytest.mark.charts
def test_the_confusion_matrix_is_that_of_the_models_predictions(run):
    from nnx_alexnet.dashboard import images as pictures

    probabilities = run.predict(run.data.val.arrays()["image"])
    labels = run.data.val.arrays()["label"]
    counts = np.zeros((4, 4), int)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    expected = pictures.confusion_matrix(counts, run.data.class_names)
    np.testing.assert_array_equal(picture(run.run_dir, "val/confusion_matrix"), expected)


def test_the_images_are_those_that_the_first_step_received(tmp_path):
    seen = {}

    class Spy(Trainer):
        def train_step(self, model, optimizer, batch):
            jax.debug.callback(lambda image: seen.setdefault("first", np.asarray(image)),
                               batch["image"])  # fmt: skip
            return super().train_step(model, optimizer, batch)

    tiny = trainer_in(tmp_path)
    model = TinyNet(4, rngs=nnx.Rngs(0))
    spy = Spy(model, tiny.data, max_epochs=1, log_dir=tmp_path, progress_bar=False)
    spy.fit()
    jax.effects_barrier()
    from nnx_alexnet.support import as_pixels

    sheet = picture(spy.run_dir, "train/images")
    unit = seen["first"] * 0.2 + 0.4  # without the normalization
    factor = 112 // 12
    tile = as_pixels(unit[0]).repeat(factor, axis=0).repeat(factor, axis=1)
    shown = sheet[6 : 6 + 12 * factor, 6 : 6 + 12 * factor].astype(int)
    # Another compiled program may round differently, by one grey level.
    assert np.abs(shown - tile).max() <= 1


def test_the_gradients_are_those_of_the_step(tmp_path):
    taken = {}

    class Take(Callback):
        every_n_steps = 3

        def on_train_batch_start(self, trainer, batch, batch_index):
            before = jax.device_get(trainer.parameters())
            taken["gradients"] = jax.device_get(trainer.gradients(batch))
            after = jax.device_get(trainer.parameters())
            assert all((before[name] == after[name]).all() for name in before)
            taken["before"] = before

        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            taken.setdefault("after", jax.device_get(trainer.parameters()))

    import optax

    trainer = trainer_in(tmp_path, Take(), optimizer=optax.sgd(0.5), max_steps=3, max_epochs=None)
    trainer.fit()
    for name, gradient in taken["gradients"].items():
        moved = taken["before"][name] - taken["after"][name]
        np.testing.assert_allclose(moved, 0.5 * gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stop", [*(pytest.param(n, marks=pytest.mark.slow) for n in (2, 9)), 5])
def test_a_resumed_run_has_the_tags_and_steps_of_an_uninterrupted_one(tmp_path, stop):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            if trainer.global_step == stop:
                trainer._verbs.requests.interrupt(signal.SIGINT)

    whole = trainer_in(tmp_path / "whole")
    whole.fit()
    trainer_in(tmp_path / "cut", Stop()).fit()
    again = trainer_in(tmp_path / "cut")
    again.fit(resume="auto")
    ours, expected = steps_of(again.run_dir), steps_of(whole.run_dir)
    for each in (ours, expected):
        for tag in [tag for tag in each if tag.startswith(("_hparams_", "custom", "z_perf/"))]:
            del each[tag]
    assert ours == expected
    # Resuming a finished run adds nothing.
    before = steps_of(again.run_dir)
    third = trainer_in(tmp_path / "cut")
    third.fit(resume="auto")
    after = steps_of(third.run_dir)
    assert {tag: after[tag] for tag in IMAGES} == {tag: before[tag] for tag in IMAGES}


@pytest.mark.parametrize(
    ("every", "validate", "epochs", "expected"),
    [
        (None, 1, 9, [1, 2, 4, 8, 9]),
        (None, 3, 9, [3, 6, 9]),
        (3, 1, 7, [3, 6, 7]),
        (1, 2, 5, [2, 4, 5]),
        (100, 1, 2, [2]),
    ],
)
def test_results_are_drawn_at_the_first_validation_after_a_due_epoch(
    tmp_path, every, validate, epochs, expected
):
    callback = TensorBoard(every_n_epochs=every, images=["val/class_accuracy"], histograms=False)
    trainer = trainer_in(tmp_path, callback, max_epochs=epochs, validate_every_n_epochs=validate)
    trainer.fit()
    assert steps_of(trainer.run_dir)["y_val/class_accuracy"] == [STEPS * each for each in expected]


def test_images_are_written_after_an_early_stop(tmp_path):
    stopping = EarlyStopping("val/loss", patience=1, min_delta=100.0)
    trainer = trainer_in(tmp_path, stopping, max_epochs=50)
    trainer.fit()
    assert trainer.global_step == 2 * STEPS or trainer.global_step == 3 * STEPS
    assert steps_of(trainer.run_dir)["y_val/confusion_matrix"][-1] == trainer.global_step


@pytest.mark.parametrize(
    ("arguments", "absent", "present"),
    [
        ({"images": False}, IMAGES, {"z_parameters/conv/kernel", "config"}),
        ({"histograms": False, "texts": False}, {"z_parameters/conv/kernel", "config"}, IMAGES),
        ({"images": ["model/filters"]}, IMAGES - {"z_model/filters"}, {"z_model/filters"}),
    ],
)
def test_each_part_can_be_disabled(tmp_path, arguments, absent, present):
    trainer = trainer_in(tmp_path, TensorBoard(**arguments), max_epochs=1)
    trainer.fit()
    tags = set(steps_of(trainer.run_dir))
    assert not tags & absent
    assert present <= tags


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": ["filters"]}, "did you mean 'model/filters'"),
        ({"every_n_epochs": 0}, "`every_n_epochs` (=0)"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        TensorBoard(**arguments)


def test_an_image_that_fails_is_reported_once_and_training_continues(
    tmp_path, monkeypatch, warnings
):
    from nnx_alexnet.dashboard import images as pictures

    def fail(*_):
        raise ZeroDivisionError("no ink")

    monkeypatch.setattr(pictures, "filters", fail)
    monkeypatch.setattr(pictures, "confusion_matrix", fail)
    trainer = trainer_in(tmp_path)
    trainer.fit()
    assert trainer.global_step == 3 * STEPS
    assert [record.message for record in warnings.records if "no ink" in record.message] == [
        "TensorBoard could not draw, training continues: ZeroDivisionError('no ink')"
    ]
    assert "y_train/images" in steps_of(trainer.run_dir)


def test_a_train_step_without_gradients_is_reported_and_trains(tmp_path, warnings):
    class NoUpdate(Trainer):
        def train_step(self, model, optimizer, batch):
            return self.task.outputs(model, batch)  # nothing is learned

    base = trainer_in(tmp_path)
    trainer = NoUpdate(
        TinyNet(4, rngs=nnx.Rngs(0)), base.data, callbacks=[TensorBoard(gradients=True)],
        max_epochs=1, log_dir=tmp_path, progress_bar=False,
    )  # fmt: skip
    trainer.fit()
    assert trainer.global_step == STEPS
    assert "TensorBoard could not draw" in warnings.text


class Regression(Task):
    def outputs(self, model, batch):
        error = model(batch["image"])[:, 0] - batch["label"]
        return {"loss": error**2}


def test_a_regression_on_vectors_has_histograms_and_no_images(tmp_path, warnings):
    rng = np.random.default_rng(0)
    split = rng.normal(size=(32, 5)).astype(np.float32), rng.normal(size=32).astype(np.float32)
    trainer = Trainer(
        nnx.Linear(5, 1, rngs=nnx.Rngs(0)), DataModule(split, split, batch_size=8),
        task=Regression(), max_epochs=1, log_dir=tmp_path, progress_bar=False,
    )  # fmt: skip
    trainer.fit()
    tags = set(steps_of(trainer.run_dir))
    assert not tags & IMAGES
    assert "z_parameters/kernel" in tags
    assert not warnings.records


@pytest.mark.charts
def test_images_do_not_change_the_result_of_training(tmp_path):
    found = []
    for name, callback in [
        ("with", TensorBoard(every_n_epochs=1, gradients=True)),
        ("without", TensorBoard(images=False, histograms=False)),
    ]:
        trainer = trainer_in(tmp_path / name, callback)
        trainer.fit()
        found.append(jax.device_get(jax.tree.leaves(nnx.state(trainer.model, nnx.Param))))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.charts
def test_no_thread_is_left_after_a_run_that_failed(tmp_path):
    class Fail(Callback):
        def on_train_epoch_end(self, trainer):
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        trainer_in(tmp_path, Fail()).fit()
    assert not [t for t in threading.enumerate() if t.name.startswith("tensorboard")]


def test_the_augmentation_key_is_that_of_the_trainer():
    key = augmentation_key(seed=3, epoch=2)
    expected = jax.random.fold_in(jax.random.key(3), 2)
    assert (jax.random.key_data(key) == jax.random.key_data(expected)).all()


class TwoTargets(Task):
    """Several labels per example, so that `labels` is not a class."""

    def outputs(self, model, batch):
        logits = model(batch["image"])
        return {"loss": logits.mean(axis=1) ** 2, "logits": logits, "labels": batch["label"]}


def test_a_task_with_several_labels_has_no_confusion_matrix(tmp_path, warnings):
    images, _ = tiny_arrays(num=32)
    split = images, np.random.default_rng(0).random((32, 4)).astype(np.float32)
    trainer = Trainer(
        TinyNet(4, rngs=nnx.Rngs(0)), DataModule(split, split, batch_size=16), task=TwoTargets(),
        max_epochs=1, log_dir=tmp_path, progress_bar=False,
    )  # fmt: skip
    trainer.fit()
    assert "y_val/confusion_matrix" not in steps_of(trainer.run_dir)
    assert not warnings.records


def test_parameters_between_runs_are_those_of_the_model(tmp_path):
    trainer = trainer_in(tmp_path, max_epochs=1)
    assert set(trainer.parameters()) >= {"conv/kernel", "dense/bias"}
    trainer.fit()
    before = trainer.validate()
    kept = trainer.parameters()["dense/kernel"]
    state = jax.tree.map(jax.numpy.zeros_like, nnx.state(trainer.model, nnx.Param))
    nnx.update(trainer.model, state)
    assert trainer.validate()["val/loss"] == pytest.approx(np.log(4), rel=1e-5)
    assert before["val/loss"] != pytest.approx(np.log(4), rel=1e-5)
    assert np.any(np.asarray(kept))
    trainer.fit()
    with pytest.raises(RuntimeError, match="running `fit`"):
        trainer.gradients({})


def test_a_configuration_with_values_of_any_type_is_written(tmp_path, warnings):
    trainer = trainer_in(
        tmp_path, max_epochs=1, config={"root": tmp_path, "rate": np.float32(0.1), "model": None}
    )
    trainer.fit()
    assert str(tmp_path) in text(trainer.run_dir, "config")
    assert not warnings.records


def test_a_second_validation_at_the_same_step_is_written_too(tmp_path):
    trainer = trainer_in(tmp_path, max_epochs=1)
    trainer.fit()
    trainer.validate()
    assert steps_of(trainer.run_dir)["val/loss"] == [STEPS, STEPS]


def test_a_run_restarted_before_its_first_checkpoint_has_its_texts_once(tmp_path):
    class Fail(Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        trainer_in(tmp_path, Fail()).fit()
    trainer = trainer_in(tmp_path)
    trainer.fit(resume="auto")
    for tag, steps in steps_of(trainer.run_dir).items():
        assert steps == sorted(set(steps)), tag


def test_a_run_without_a_folder_computes_no_gradients_for_the_dashboard(tmp_path):
    callback = TensorBoard(gradients=True)
    trainer = trainer_in(None, callback)
    trainer.fit()
    assert "gradients" not in trainer.num_compilations


def test_a_signal_while_the_last_images_are_drawn_does_not_interrupt(tmp_path, monkeypatch):
    import json

    class Signal(Callback):
        priority = -100

        def teardown(self, trainer, stage):
            trainer._verbs.requests.interrupt(signal.SIGINT)

    trainer = trainer_in(tmp_path, Signal(), max_epochs=1)
    trainer.fit()
    assert not trainer.interrupted
    environment = json.loads((trainer.run_dir / "environment.json").read_text())
    assert environment["status"] == "finished"


def test_a_run_resumed_from_an_older_checkpoint_has_each_step_once(tmp_path):
    class Fail(Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            if trainer.global_step == STEPS + 3:
                raise RuntimeError("boom")

    arguments = {"log_every_n_steps": 1, "steps_per_execution": 1}
    with pytest.raises(RuntimeError, match="boom"):
        trainer_in(tmp_path, Fail(), **arguments).fit()
    trainer = trainer_in(tmp_path, **arguments)
    trainer.fit(resume="auto")
    steps = steps_of(trainer.run_dir)
    assert steps["train/loss_step"] == [*range(1, 3 * STEPS + 1)]
    for tag, each in steps.items():
        assert each == sorted(set(each)), tag

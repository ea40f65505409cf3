"""Bad input is refused with a clear error before anything is compiled or written."""

import flax.linen
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import TinyNet, tiny_arrays

from nnx_alexnet import AlexNet, Classification, DataModule, Task, Trainer
from nnx_alexnet.callbacks import EarlyStopping, ModelCheckpoint
from nnx_alexnet.data import ImageTransform

TRAIN, VAL = tiny_arrays(num=64), tiny_arrays(num=30, seed=1)


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Builds and fits a trainer; nothing may be written or compiled when it is refused."""
    monkeypatch.chdir(tmp_path)

    def fit(match, *, error=ValueError, model=None, data=None, **arguments):
        model = TinyNet(4, rngs=nnx.Rngs(0)) if model is None else model
        trainers = []
        with pytest.raises(error, match=match):  # noqa: PT012  # either line may refuse
            trainers.append(Trainer(model, (TRAIN, VAL) if data is None else data, **arguments))
            trainers[0].fit()
        assert not any(tmp_path.iterdir())
        assert not trainers or trainers[0].num_compilations == {}

    return fit


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"max_epochs": 0}, r"`max_epochs` \(=0\) must be a positive integer"),
        ({"max_steps": 1.5}, r"`max_steps` \(=1.5\)"),
        ({"log_every_n_steps": -1}, "`log_every_n_steps`"),
        ({"validate_every_n_epochs": 0}, "`validate_every_n_epochs`"),
        ({"name": "../elsewhere"}, r"`name` \(='../elsewhere'\)"),
        ({"name": ""}, "`name`"),
        ({"callbacks": [ModelCheckpoint(), ModelCheckpoint("val/loss")]}, "more than one"),
        (
            {"callbacks": [EarlyStopping("val/acuracy", mode="max")]},
            r"`monitor` \(='val/acuracy'\) is unknown; did you mean 'val/accuracy'\?.*'val/loss'",
        ),
        ({"callbacks": [ModelCheckpoint("val/los")]}, "did you mean 'val/loss'"),
    ],
)
def test_an_argument_out_of_its_range(refused, arguments, match):
    refused(match, **arguments)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"model": TinyNet}, r"`model` .*Pass an instance: TinyNet\(\.\.\., rngs=nnx.Rngs\(0\)\)"),
        ({"model": flax.linen.Dense(4)}, r"`model` \(=an object of type Dense\).*bridge.ToNNX"),
        ({"optimizer": 1e-3}, r"`optimizer` \(=0.001\) must be an optax optimizer"),
        ({"optimizer": optax.sgd}, r"`optimizer` .* Call it: sgd\(1e-3\)"),
        ({"task": Classification}, r"`task` .* Pass an instance: Classification\(\)"),
        ({"log_dir": 5}, r"`log_dir` \(=5\) must be a path"),
        ({"callbacks": [EarlyStopping]}, "`callbacks`.*instance"),
    ],
)
def test_an_argument_of_another_type(refused, arguments, match):
    refused(match, error=TypeError, **arguments)


def test_an_nnx_optimizer_is_refused_with_what_to_pass(refused):
    model = TinyNet(4, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    refused("optax.adam", error=TypeError, model=model, optimizer=optimizer)
    how = r"\(=an object of type Optimizer\) .*built from, and as `trainable` the filter"
    refused(how, error=TypeError, model=model, optimizer=optimizer)


def test_model_and_data_that_are_swapped():
    split = np.zeros((64, 8, 8, 1), np.uint8), np.zeros(64, np.int32)
    how = r"`model` \(=an object of type tuple\) .* comes first: Trainer\(model, data\)"
    with pytest.raises(TypeError, match=how):
        Trainer((split, split), TinyNet(4, rngs=nnx.Rngs(0)))


def test_an_unknown_mode():
    with pytest.raises(ValueError, match=r"`mode` \(='maxx'\) is unknown; did you mean 'max'"):
        EarlyStopping("val/loss", mode="maxx")


@pytest.mark.parametrize("bad", [4, -1])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_label_outside_the_classes(refused, split, bad):
    images, labels = TRAIN if split == "train" else VAL
    labels = labels.copy()
    labels[3] = bad
    splits = {"train": TRAIN, "val": VAL} | {split: (images, labels)}
    remedy = "0" if bad < 0 else "0, or build the model with num_classes=5"
    match = (
        rf"`{split}` has labels from .* 4 classes requires labels from 0 to 3\. "
        rf"Number the classes from {remedy}\."
    )
    refused(match, data=tuple(splits.values()))


def test_a_label_outside_the_classes_of_an_iterable(refused):
    images, labels = TRAIN
    batches = [(images[:16], labels[:16]), (images[16:32], labels[16:32] + 1)]
    model = TinyNet(4, rngs=nnx.Rngs(0))
    trainer = Trainer(model, DataModule(batches), log_dir=None, progress_bar=False)
    with pytest.raises(ValueError, match="requires labels from 0 to 3"):
        trainer.fit()


def test_soft_labels_of_another_number_of_classes(refused):
    images, labels = TRAIN
    data = ((images, np.eye(5, dtype=np.float32)[labels]), VAL)
    refused(r"labels of shape \(5,\).*model of 4 classes", data=data)
    refused(r"labels of shape \(5,\).*model of 4 classes", data=DataModule(data[0]))


@pytest.mark.parametrize(
    ("image_size", "in_channels", "size"), [(96, 1, 100), (96, 3, 96), (227, 1, 96)]
)
def test_images_that_the_model_does_not_take(refused, image_size, in_channels, size):
    images = np.zeros((64, size, size, 1), np.uint8)
    data = DataModule((images, np.zeros(64, np.int32)), batch_size=32)
    model = nnx.eval_shape(
        lambda: AlexNet(10, image_size=image_size, in_channels=in_channels, rngs=nnx.Rngs(0))
    )
    refused(rf"examples of `image` uint8\[{size}, {size}, 1\]", model=model, data=data)


def test_splits_of_different_images(refused):
    wide = np.zeros((30, 8, 9, 1), np.uint8), VAL[1]
    refused(r"uint8\[8, 9, 1\]", data=(TRAIN, wide))


def test_labels_that_would_stay_where_the_pixels_of_an_iterable_move(refused):
    images, _ = TRAIN
    batches = [(images[i : i + 16], images[i : i + 16, ..., 0]) for i in (0, 16)]
    data = DataModule(batches, transform=ImageTransform(flip=True))
    refused(r"`train`: .*\(flip=True\) but not `label`: .*\[8, 8\]", data=data)
    data = DataModule(TRAIN, batches, transform=ImageTransform(crop=0.5))
    refused(r"`val`: .*\(crop=0.5\) but not `label`: .*\[8, 8\]", data=data)


def test_a_transform_that_works_on_other_things_than_batches(refused):
    def to_tensor(batch):
        return {**batch, "image": np.asarray(batch["image"]) / 255}

    refused(
        r"`transform` \(.*to_tensor\).*fails: .*jax.numpy",
        data=DataModule([TRAIN], transform=to_tensor),
    )


def test_images_of_a_dtype_that_no_transform_knows(refused):
    images, labels = TRAIN
    refused(
        r"`val` has `image` uint8.*`train` has `image` int32.*Use the same dtype",
        data=((images.astype(np.int64), labels), VAL),
    )


def test_an_empty_split(refused):
    refused("val", data=(TRAIN, (VAL[0][:0], VAL[1][:0])))


def test_a_batch_larger_than_the_train_split():
    with pytest.raises(ValueError, match=r"`batch_size` \(=65\).*64 examples"):
        DataModule(TRAIN, VAL, batch_size=65)


def test_images_and_labels_where_splits_are_meant(refused):
    refused(r"looks like \(images, labels\)", data=TRAIN)


def test_a_generator_that_is_exhausted_after_an_epoch(refused):
    images, labels = TRAIN
    batches = ((images[i : i + 16], labels[i : i + 16]) for i in range(0, 64, 16))
    trainer = Trainer(
        TinyNet(4, rngs=nnx.Rngs(0)), DataModule(batches), log_dir=None, progress_bar=False
    )
    with pytest.raises(ValueError, match=r"for another pass"):
        trainer.fit()
    assert trainer.global_step == 4


def test_a_verb_without_its_split(refused):
    trainer = Trainer(TinyNet(4, rngs=nnx.Rngs(0)), DataModule(TRAIN), log_dir=None)
    with pytest.raises(ValueError, match="`data` has no val split"):
        trainer.validate()
    with pytest.raises(ValueError, match="`data` has no test split"):
        trainer.predict()


def test_predict_on_images_of_another_shape():
    trainer = Trainer(TinyNet(4, rngs=nnx.Rngs(0)), (TRAIN, VAL), log_dir=None)
    with pytest.raises(ValueError, match=r"`data` .*\[9, 9, 1\].*\[8, 8, 1\]"):
        trainer.predict(np.zeros((3, 9, 9, 1), np.uint8))
    with pytest.raises(ValueError, match="`data` is empty"):
        trainer.predict(np.zeros((0, 8, 8, 1), np.uint8))
    with pytest.raises(
        ValueError, match=r"the task reads 'image', which .* keys are index, mask, x"
    ):
        trainer.predict({"x": np.zeros((3, 8, 8, 1), np.uint8)})
    with pytest.raises(ValueError, match="the task reads 'image'"):
        trainer.predict_batches({"x": np.zeros((3, 8, 8, 1), np.uint8)})
    assert trainer.num_compilations == {}


def test_a_model_that_returns_no_logits(refused):
    class Pair(TinyNet):
        def __call__(self, image):
            return image, super().__call__(image)

    refused("Classification.*requires logits", model=Pair(4, rngs=nnx.Rngs(0)))


def test_a_task_without_outputs(refused):
    refused(r"Task must override `outputs", task=Task())


def test_a_log_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "logs").write_text("a file where a folder should be")
    trainer = Trainer(
        TinyNet(4, rngs=nnx.Rngs(0)), (TRAIN, VAL), log_dir=tmp_path / "logs", progress_bar=False
    )
    with pytest.raises(ValueError, match=r"`log_dir` .*cannot be written.*`log_dir=None`"):
        trainer.fit()
    assert trainer.num_compilations == {}


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_out_of_range(smoothing):
    with pytest.raises(ValueError, match=r"`label_smoothing`.*\[0, 1\)"):
        Classification(smoothing)


def test_statistics_of_another_number_of_channels():
    transform = ImageTransform(mean=(0.1, 0.2, 0.3), std=(1, 1, 1))
    with pytest.raises(ValueError, match=r"`mean`.*3 values.*1 channels"):
        DataModule(TRAIN, transform=transform)

"""The classes of image files, as `nnx-alexnet predict` writes them."""

import csv
import io
import json
import os
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import TinyNet
from jsonargparse import Namespace
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from nnx_alexnet import DataModule, Task, Trainer, load_model
from nnx_alexnet.augmentation import RandomErasing
from nnx_alexnet.cli import main
from nnx_alexnet.cli.predict_files import (
    FilePredictor,
    compile_probabilities,
    predict_files,
    rebuild_predictor,
)
from nnx_alexnet.data import ImageTransform, find_images, load_data
from nnx_alexnet.data.image_decoding import decode
from nnx_alexnet.data.image_files import IMAGE_SUFFIXES
from nnx_alexnet.data.sources import MapSource
from nnx_alexnet.task import BinaryClassification, Classification, MultiLabelClassification

TASKS = {"binary": BinaryClassification(), "several": MultiLabelClassification()}

# ---- What is no image --------------------------------------------------------------------------


def fifo(path):
    os.mkfifo(path)
    return path


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # a socket's path must be short
    return path


def folder(path):
    path.mkdir()
    return path


def empty(path):
    path.touch()
    return path


def dangling(path):
    path.symlink_to("nowhere")
    return path


def loop(path):
    path.symlink_to(path)
    return path


def hole(path):
    with path.open("wb") as file:
        file.truncate(2**40)
    return path


def bomb(path):
    """A header that promises 60,000 x 60,000 pixels."""
    path.write_bytes(b"P6 60000 60000 255\n")
    return path


SPECIAL = {
    fifo: (ValueError, "it is not a regular file, but a FIFO"),
    unix_socket: (ValueError, "it is not a regular file, but a socket"),
    folder: (ValueError, "it is not a regular file, but a folder"),
    (lambda path: Path("/dev/zero")): (ValueError, "it is not a regular file, but a device"),
    (lambda path: Path("/dev/tty")): (ValueError, "it is not a regular file, but a device"),
    empty: (ValueError, "it is empty"),
    hole: (ValueError, "no known format"),
    bomb: (ValueError, "decompression bomb"),
    dangling: (FileNotFoundError, "There is no image file"),
    loop: (OSError, "Cannot read the image file .*: Too many levels of symbolic links"),
    (lambda path: path.with_name("x" * 300)): (OSError, "Cannot read the image file .*too long"),
    (lambda path: Path("a\0b")): (ValueError, r"image file a\\x00b: embedded null byte"),
    (lambda path: empty(path) / "x.png"): (OSError, "Cannot read .*: Not a directory"),
    (lambda path: fifo(path.with_name("a\nb\x1b.png"))): (
        ValueError,
        r"a\\nb\\x1b\.png: it is not",
    ),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", SPECIAL, ids=lambda make: make.__name__)
def test_what_is_no_image_is_refused_at_once(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    kind, message = SPECIAL[make]
    with pytest.raises(kind, match=message) as error:
        decode(str(make(tmp_path / "image.png")), resize=6, size=4)
    assert "\n" not in str(error.value)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "image.png"
    Image.new("L", (4, 4)).save(path)
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(PermissionError, match=r"Cannot read the image file .*: Permission denied"):
        decode(str(path), resize=4, size=4)


def test_an_image_that_does_not_fit_into_memory_is_not_called_damaged(tmp_path, monkeypatch):
    def fails(*arguments, **more):
        raise MemoryError

    path = tmp_path / "image.png"
    Image.new("L", (4, 4)).save(path)
    monkeypatch.setattr(Image.Image, "resize", fails)
    with pytest.raises(MemoryError, match="not enough memory to decode the image file"):
        decode(str(path), resize=4, size=4)

    def read(file):
        return decode(file, resize=4, size=4)

    predictor = FilePredictor(read, lambda images: images, (1, 4, 4, 3))
    (((_, why),),) = predict_files([str(path)], predictor)
    assert why.startswith("There is not enough memory to decode")


@pytest.mark.parametrize(
    ("error", "is_skipped"),
    [
        (OSError(24, "Too many open files"), False), (MemoryError(), False),
        (OSError(116, "Stale file handle"), False), (ValueError("damaged"), True),
        (FileNotFoundError(2, "No such file"), True), (OSError("image file is truncated"), True),
    ],
)  # fmt: skip
def test_an_example_is_not_skipped_because_the_machine_lacks_something(error, is_skipped):
    class Examples(list):
        is_failing = False

        def __getitem__(self, index):
            if self.is_failing and index == 1:
                raise error
            return super().__getitem__(index)

    examples = Examples([(np.zeros((4, 4, 1), np.uint8), 0)] * 3)
    source = MapSource(examples, on_bad_sample="skip")
    examples.is_failing = True
    if is_skipped:
        assert list(source.take(np.arange(3), seed=0, epoch=0).bad) == [1]
    else:
        with pytest.raises(type(error)):
            source.take(np.arange(3), seed=0, epoch=0)


@pytest.mark.timeout(60)
def test_training_from_a_folder_does_not_wait_for_a_fifo(tmp_path, warnings):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (20, 20)).save(tmp_path / "train" / name / f"{number}.png")
    os.mkfifo(tmp_path / "train/dog/a.png")
    data = load_data("folder", root=tmp_path, image_size=16, batch_size=4, num_workers=0)
    assert data.train.num_examples == 18
    assert "1 file of other kinds, left out: .png (1)" in warnings.text
    # One that takes the place of an image later.
    file = tmp_path / "train/cat/3.png"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match=r"train/cat/3\.png: it is not a regular file, but a FIFO"):
        list(data.train.batches())


def test_what_fit_takes_for_an_image_predict_does_too():
    assert set(IMG_EXTENSIONS) <= set(IMAGE_SUFFIXES)


# ---- Batches -----------------------------------------------------------------------------------

SHAPE = (8, 8, 1)


class CountingNet(TinyNet):
    """A model that counts how often it is traced."""

    traces = 0

    def __call__(self, image):
        type(self).traces += 1
        return super().__call__(image)


def numbered(file):
    """An image that its name determines."""
    return np.random.default_rng(int(file)).integers(0, 256, SHAPE).astype(np.uint8)


def rows_of(files, batch_size, model=None):
    model = TinyNet(4, rngs=nnx.Rngs(0)) if model is None else model
    shape = (batch_size, *SHAPE)
    step = compile_probabilities(model, Classification(), ImageTransform(), shape)
    return list(predict_files(files, FilePredictor(numbered, step, shape)))


def test_rows_do_not_depend_on_batches_and_equal_the_trainers():
    files = [str(number) for number in range(43)]
    CountingNet.traces = 0
    batches = rows_of(files, 8, CountingNet(4, rngs=nnx.Rngs(0)))
    assert CountingNet.traces == 1
    assert [len(batch) for batch in batches] == [8] * 5 + [3]
    assert [file for batch in batches for file, _ in batch] == files
    rows = np.stack([row for batch in batches for _, row in batch])
    ((*whole,),) = rows_of(files, 43)
    np.testing.assert_allclose(rows, np.stack([row for _, row in whole]), rtol=1e-5)
    images = np.stack([numbered(file) for file in files])
    data = DataModule((images, np.zeros(43, np.int32)), batch_size=8)
    trainer = Trainer(TinyNet(4, rngs=nnx.Rngs(0)), data, log_dir=None, progress_bar=False)
    np.testing.assert_array_equal(rows, trainer.predict(images))


@pytest.mark.parametrize("name", ["rngs", "own"])
def test_random_numbers_are_an_argument_or_of_the_model_itself(name):
    class Samples(nnx.Module):
        def __init__(self):
            self.own = nnx.Rngs(0)

        def __call__(self, image, rngs=None):
            assert rngs is not None
            return (rngs if name == "rngs" else self.own).normal((len(image), 4))

    class Raw(Classification):
        def predict(self, model, batch):
            return model(batch["image"])

    step = compile_probabilities(Samples(), Raw(), ImageTransform(), (2, *SHAPE))
    images = np.zeros((2, *SHAPE), np.uint8)
    assert (step(images) != step(images)).all()


def test_a_sampling_model_has_new_random_numbers_per_batch():
    class Samples(nnx.Module):
        def __init__(self, rngs):
            self.rngs = rngs

        def __call__(self, image, train):
            noise = jax.random.normal(self.rngs.noise(), (len(image), 4))
            return noise + 100.0 * train

    class Raw(Classification):
        def predict(self, model, batch):
            return model(batch["image"])

    model = Samples(nnx.Rngs(noise=3))
    step = compile_probabilities(model, Raw(), ImageTransform(), (2, *SHAPE))
    images = np.zeros((2, *SHAPE), np.uint8)
    rows = [step(images), step(images)]
    for number, row in enumerate(rows):
        expected = jax.random.normal(jax.random.fold_in(jax.random.key(3), number), (2, 4))
        np.testing.assert_allclose(row, expected, rtol=1e-6)


def test_a_batch_of_another_shape_is_an_error():
    model = TinyNet(4, rngs=nnx.Rngs(0))
    step = compile_probabilities(model, Classification(), ImageTransform(), (8, *SHAPE))
    with pytest.raises(TypeError, match="compiled"):
        step(np.zeros((3, *SHAPE), np.uint8))


def test_an_unreadable_file_does_not_affect_other_rows():
    whole = dict(pair for batch in rows_of(["1", "2", "3", "4", "5"], 2) for pair in batch)
    got = dict(pair for batch in rows_of(["1", "x", "3", "y", "z", "5"], 2) for pair in batch)
    assert list(got) == ["1", "x", "3", "y", "z", "5"]
    assert all("invalid literal" in got[file] for file in "xyz")
    for file in "135":
        np.testing.assert_array_equal(got[file], whole[file])


def test_only_the_next_batch_is_read_ahead():
    read = []
    shape = (4, *SHAPE)
    lock = threading.Lock()

    def reading(file):
        with lock:
            read.append(file)
        return numbered(file)

    files = [str(number) for number in range(40)]
    predictor = FilePredictor(reading, lambda images: images[:, 0, 0], shape)
    batches = predict_files(files, predictor)
    for count, _ in enumerate(batches, start=1):
        assert 4 * count <= len(read) <= 4 * (count + 1)


def test_a_task_without_classes_is_refused():
    class Reconstruction(Task):
        def predict(self, model, batch):
            return {"image": batch["image"]}

    model = TinyNet(4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="Reconstruction, does not predict classes"):
        compile_probabilities(model, Reconstruction(), ImageTransform(), (8, *SHAPE))


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "num", "is_shown"), [(Terminal, 9, True), (Terminal, 8, False), (io.StringIO, 9, 0)]
)
def test_a_bar_is_shown_on_a_terminal_for_several_batches(monkeypatch, stream, num, is_shown):
    monkeypatch.setattr(sys, "stderr", stream())
    files = [str(number) for number in range(num)]
    predictor = FilePredictor(numbered, lambda images: images[:, 0, 0], (8, *SHAPE))
    list(predict_files(files, predictor))
    assert bool(sys.stderr.getvalue()) == bool(is_shown)


# ---- The command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on RGB images of the classes "blue, or so" and "red", which it can tell apart."""
    folder = tmp_path_factory.mktemp("predicting")
    for name, color in (("blue, or so", (0, 0, 250)), ("red", (250, 0, 0))):
        (folder / "data/train" / name).mkdir(parents=True)
        for number in range(20):
            image = Image.new("RGB", (20 + number, 24), color)
            image.save(folder / "data/train" / name / f"{number}.png")
    arguments = [
        "--data", "folder", "--data.root", str(folder / "data"), "--data.image_size", "16",
        "--data.batch_size", "8", "--data.num_workers", "0", "--data.keep_on_device", "false",
        "--model", "helpers.TinyNet", "--trainer.max_epochs", "4",
        "--optimizer.learning_rate", "0.05",
        "--trainer.log_dir", str(folder / "logs"), "--trainer.progress_bar", "false",
    ]  # fmt: skip
    assert main(["fit", *arguments]) == 0
    return str(folder / "logs/tinynet/version_0")


@pytest.fixture
def images(tmp_path):
    """A folder with two files that can be read, in a folder below, and two that cannot."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    (folder / "1.png").write_bytes(b"no picture")
    Image.new("RGB", (33, 44), (250, 0, 0)).save(folder / "below/2.jpg")
    Image.new("RGB", (55, 22), (0, 0, 250)).save(folder / "below/3.tif")
    (folder / "4.jpg").write_bytes((folder / "below/2.jpg").read_bytes()[:200])
    return folder


def test_unreadable_files_are_listed_after_the_predictions(run, images, tmp_path, capsys):
    missing, empty = tmp_path / "missing.png", tmp_path / "empty"
    empty.mkdir()
    assert main(["predict", run, str(missing), str(images), str(empty)]) == 1
    captured = capsys.readouterr()
    names = [line.rsplit(" ", 1)[0] for line in captured.out.splitlines()]
    assert names == [f"{images}/below/2.jpg  red", f"{images}/below/3.tif  blue, or so"]
    lines = captured.err.splitlines()
    assert len(lines) == 4
    for line, words in zip(
        lines,
        [f"{empty} has no images (.jpg", f"no image file {missing}", "/1.png: ", "/4.jpg: "],
        strict=True,
    ):
        assert line.startswith("nnx-alexnet: error: ")
        assert words in line


def test_no_readable_file_is_exit_code_1_without_a_traceback(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"")
    assert main(["predict", run, str(tmp_path / "empty"), str(tmp_path / "broken.png")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 2
    assert main(["predict", run, str(tmp_path / "empty")]) == 1
    assert "Traceback" not in capsys.readouterr().err + captured.err


def test_csv_and_json_can_be_parsed_and_agree(run, images, tmp_path, capsys):
    paths = [str(images / "below"), str(images / "below/2.jpg")]
    expected = [f"{images}/below/{name}" for name in ("2.jpg", "3.tif", "2.jpg")]
    assert main(["predict", run, *paths, "--top_k", "2", "--format", "json"]) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["file"] for each in objects] == expected
    file = tmp_path / "classes.csv"
    file.write_text("of before " * 1000)
    command = ["predict", run, *paths, "--top_k", "2", "--format", "csv", "--output", str(file)]
    assert main(command) == 0
    assert capsys.readouterr().out == ""
    with file.open(newline="") as lines:
        rows = list(csv.reader(lines))
    assert rows[0] == ["file", "rank", "class", "probability"]
    assert [[name, int(rank), kind, float(p)] for name, rank, kind, p in rows[1:]] == [
        [each["file"], rank, one["class"], one["probability"]]
        for each in objects
        for rank, one in enumerate(each["classes"], start=1)
    ]
    best = [each["classes"][0] for each in objects]
    assert [one["class"] for one in best] == ["red", "blue, or so", "red"]
    assert all(one["probability"] > 0.5 for one in best)


def test_a_name_that_is_not_text_is_written_as_bytes(run, images, tmp_path):
    odd = os.fsencode(images) + b"/below/\xff.jpg"
    Path(os.fsdecode(odd)).write_bytes((images / "below/2.jpg").read_bytes())
    file = tmp_path / "classes.txt"
    assert main(["predict", run, str(images / "below"), "--output", str(file)]) == 0
    assert [line.split(b"  ")[0] for line in file.read_bytes().splitlines()][-1] == odd


@pytest.mark.timeout(60)
def test_special_files_are_reported_without_waiting(run, images, capsys):
    os.mkfifo(images / "5.png")
    (images / "6.png").symlink_to("/dev/zero")
    (images / "7\n.png").symlink_to("7")
    assert main(["predict", run, str(images)]) == 1
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    lines = captured.err.splitlines()
    assert [line.partition(f"{images}/")[2] for line in lines if "4.jpg" not in line] == [
        "1.png: no known format",
        "5.png: it is not a regular file, but a FIFO",
        "6.png: it is not a regular file, but a device",
        "7\\n.png.",
    ]


def test_an_unsearchable_folder_is_reported_on_one_line(images, monkeypatch):
    def fails(path):
        raise PermissionError(13, "Permission denied", f"{path}\n")

    monkeypatch.setattr(os, "scandir", fails)
    files, problems = find_images([str(images)])
    assert files == []
    assert problems == [f"Cannot search the folder {images}\\n: Permission denied"]


def test_a_full_disk_is_reported_with_the_output(run, images, capsys):
    command = ["predict", run, str(images / "below"), "--output", "/dev/full"]
    assert main(command) == 1
    assert capsys.readouterr().err == (
        "nnx-alexnet: error: The classes cannot be written to `output` (='/dev/full'): "
        "No space left on device.\n"
    )


def test_an_unwritable_output_is_reported_before_reading(run, images, capsys):
    output = str(images / "nowhere/classes.csv")
    assert main(["predict", run, str(images), "--output", output]) == 2
    assert capsys.readouterr().err.startswith("nnx-alexnet: error: --output (=")


def test_many_files_are_predicted_in_batches_in_order(run, images, tmp_path, capsys, monkeypatch):
    for number in range(9):
        color = (250, 0, 0) if number % 3 else (0, 0, 250)
        Image.new("RGB", (30, 30), color).save(tmp_path / f"{number}.png")
    paths = [str(tmp_path / f"{number}.png") for number in range(9)]
    command = ["predict", run, *paths, "--top_k", "2", "--format", "json"]
    assert main(command) == 0
    whole = capsys.readouterr().out
    monkeypatch.setattr("nnx_alexnet.cli.predict_files.MAX_BATCH_SIZE", 2)
    assert main(command) == 0
    parts = capsys.readouterr().out
    pairs = zip(map(json.loads, whole.splitlines()), map(json.loads, parts.splitlines()),
                strict=True)  # fmt: skip
    for path, (one, other) in zip(paths, pairs, strict=True):
        assert one["file"] == other["file"] == path
        for left, right in zip(one["classes"], other["classes"], strict=True):
            assert left["class"] == right["class"]
            assert left["probability"] == pytest.approx(right["probability"], rel=1e-4)


def own_data(kind: str) -> DataModule:
    """Ten crops of 16 images; a label of 0 or 1, or three of them."""
    images = np.random.default_rng(0).integers(0, 255, (16, *SHAPE), np.uint8)
    labels = images.mean(axis=(1, 2))[:, :1] > 127
    label = {"binary": labels[:, 0], "several": np.repeat(labels, 3, axis=1)}[kind]
    names = {"binary": ("no", "yes"), "several": ("a", "b", "c")}[kind]
    split = images, label.astype(np.int32)
    return DataModule(
        split, split, batch_size=8, class_names=names,
        transform=[ImageTransform(crop=0.75, ten_crops=True), RandomErasing()],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "task"), [("binary", "BinaryClassification"), ("several", "MultiLabelClassification")]
)
def test_files_are_predicted_by_runs_of_binary_tasks(kind, task, tmp_path, capsys):
    arguments = ["--data", f"{__name__}.own_data", "--data.kind", kind, "--task", task]
    arguments += ["--model", "helpers.TinyNet", "--trainer.max_epochs", "1"]
    assert main(["fit", *arguments, "--trainer.log_dir", str(tmp_path)]) == 0
    data = own_data(kind)
    image = data.train.arrays()["image"][0]
    Image.fromarray(image.squeeze()).save(tmp_path / "a.png")
    run = str(tmp_path / "tinynet/version_0")
    capsys.readouterr()
    command = ["predict", run, str(tmp_path / "a.png"), "--format", "json", "--top_k", "3"]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)["classes"]
    found = {row["class"]: row["probability"] for row in rows}
    trainer = Trainer(load_model(run), data, task=TASKS[kind], log_dir=None, progress_bar=False)
    wanted = np.atleast_1d(trainer.predict({"image": image[None]})[0])
    wanted = [1 - wanted[0], wanted[0]] if kind == "binary" else wanted
    names = data.class_names
    assert [found[name] for name in names] == pytest.approx([*map(float, wanted)], rel=1e-4)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"fields": {"image": "float32[8, 8, 1]"}}, r"trained on images float32\[8, 8, 1\]; image"),
        ({"transform": {"function": "shop.scaled"}}, "with the transform shop.scaled, a function"),
        ({"image": [8, 9, 1]}, r"on images of shape \[8, 9, 1\]; image files become squares"),
        ({"image": None}, "trained on data without images; image files become squares"),
    ],
)
def test_runs_whose_images_files_cannot_be_are_refused(about, message):
    chosen: Any = SimpleNamespace(path=Path("logs/net/version_0/checkpoints/10"))
    config = Namespace(data=Namespace(name="npz:images.npz", augment=True))
    usual = {"image": [8, 8, 1], "transform": {}, "fields": {"image": "uint8[8, 8, 1]"}}
    with pytest.raises(ValueError, match=f"`run` .*{message}"):
        rebuild_predictor(chosen, config, usual | about, num_files=1)

"""What several test files share: comparisons, small models and data, a recording callback."""

import contextlib
import functools
import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.extend
import numpy as np
import pytest
from flax import nnx

from nnx_alexnet import DataModule, Task, Trainer
from nnx_alexnet.callbacks import Callback
from nnx_alexnet.data import augmentation_key
from nnx_alexnet.devices import placed
from nnx_alexnet.models import AlexNet
from nnx_alexnet.runs.folder import create_run_dir

# The contract: layer, outputs for ten 96x96x1 images and ten classes, parameters, statistics.
ALEXNET_LAYERS = [
    ("conv1", (10, 22, 22, 96), 11_712, 0),
    ("bn1", (10, 22, 22, 96), 192, 192),
    ("conv2", (10, 10, 10, 256), 614_656, 0),
    ("bn2", (10, 10, 10, 256), 512, 512),
    ("conv3", (10, 4, 4, 384), 885_120, 0),
    ("bn3", (10, 4, 4, 384), 768, 768),
    ("conv4", (10, 4, 4, 384), 1_327_488, 0),
    ("bn4", (10, 4, 4, 384), 768, 768),
    ("conv5", (10, 4, 4, 256), 884_992, 0),
    ("bn5", (10, 4, 4, 256), 512, 512),
    ("dense1", (10, 4096), 1_052_672, 0),
    ("dropout1", (10, 4096), 0, 0),
    ("dense2", (10, 4096), 16_781_312, 0),
    ("dropout2", (10, 4096), 0, 0),
    ("dense3", (10, 10), 40_970, 0),
]

# A name that would act on a terminal, a page or a format, and how it is shown.
HOSTILE = "a\x1b[2J\nb\r\t\x07\x9b31m\u202egnp.exe\u2028\udcff\ud800{x}%s```"
HOSTILE_SHOWN = r"a\x1b[2J\nb\r\t\x07\x9b31m\u202egnp.exe\u2028\udcff\ud800{x}%s```"
# Its characters that are escaped.
CONTROLS = set("\x1b\n\r\t\x07\x9b\u202e\u2028\udcff\ud800")


def alexnet_shapes(**arguments: Any) -> AlexNet:
    """An AlexNet that holds shapes and no values, which costs nothing."""
    return nnx.eval_shape(lambda: AlexNet(**arguments, rngs=nnx.Rngs(0)))


def _comparable(leaf: Any) -> np.ndarray:
    """A leaf as a NumPy array; PRNG keys as their words."""
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def _tree_compare(compare: Any, first: Any, second: Any) -> bool:
    if jax.tree.structure(first) != jax.tree.structure(second):
        return False
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    for left, right in pairs:
        x, y = _comparable(left), _comparable(right)
        if x.shape != y.shape or x.dtype != y.dtype or not compare(x, y):
            return False
    return True


def tree_equal(first: Any, second: Any) -> bool:
    """Whether two pytrees have one structure, one dtype and shape a leaf, and equal values."""
    return _tree_compare(np.array_equal, first, second)


def tree_allclose(first: Any, second: Any, *, rtol: float = 1e-5, atol: float = 1e-6) -> bool:
    """Like `tree_equal`, but the values may differ by a tolerance."""
    close = functools.partial(np.allclose, rtol=rtol, atol=atol)
    return _tree_compare(
        lambda x, y: close(x.astype(np.float64), y.astype(np.float64)), first, second
    )


def normal(seed: int, shape: tuple[int, ...], dtype: str = "float32") -> jax.Array:
    """Normally distributed random numbers."""
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def assert_close(got: jax.Array, expected: jax.Array, tolerance: float) -> None:
    """Asserts that the largest error is at most `tolerance` times the largest value."""
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    got, expected = (np.asarray(each.astype(np.float32)) for each in (got, expected))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def plain_pool(x: jax.Array) -> jax.Array:
    """The max-pool of AlexNet as flax computes it."""
    return nnx.max_pool(x, (3, 3), strides=(2, 2))


def sums_over(shape: tuple[int, ...], jaxpr: Any) -> int:
    """Returns the number of sums over arrays of a shape in a traced function and its parts."""
    found = 0
    for equation in jaxpr.eqns:
        is_sum = equation.primitive.name == "reduce_sum"
        found += is_sum and equation.invars[0].aval.shape == shape
        found += sum(
            sums_over(shape, inner) for inner in jax.extend.core.jaxprs_in_params(equation.params)
        )
    return found


def with_slow_cases(cases: list[Any], *slow: Any) -> list[Any]:
    """Parameters of a test; the slow ones run among the slow tests, compiled as users compile."""
    marks = pytest.mark.slow, pytest.mark.optimized
    return [*cases, *(pytest.param(*case, marks=marks) for case in slow)]


class TinyNet(nnx.Module):
    """All kinds of state that AlexNet has, in a thousandth of the time; images of any size."""

    def __init__(self, num_classes: int, *, in_channels: int = 1, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(in_channels, 8, (3, 3), strides=2, rngs=rngs)
        self.bn = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.dense = nnx.Linear(8, num_classes, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn(self.conv(image)))  # B H/2 W/2 8
        x = x.mean(axis=(1, 2))  # B 8
        return self.dense(self.dropout(x))  # B num_classes


class Dense(nnx.Module):
    """One layer, for tests of what is around a step: it compiles fastest, and it is looped over."""

    def __init__(self, size: int = 8) -> None:
        self.dense = nnx.Linear(size * size, 4, rngs=nnx.Rngs(0))

    def __call__(self, image: jax.Array) -> jax.Array:
        return self.dense(image.reshape(len(image), -1))  # B num_classes


def tiny_arrays(
    *, num: int = 64, seed: int = 0, num_classes: int = 4, size: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Images of stripes, noisy; the class is the width of the stripes, which a model can learn.

    Returns:
        `uint8[num, size, size, 1]` and `int32[num]`, the classes in equal parts.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num, dtype=np.int32) % num_classes)
    columns = np.arange(size)
    stripes = (columns[None, :] // (labels[:, None] + 1)) % 2  # num, size
    images = 60 + 120 * stripes[:, None, :, None] + rng.integers(0, 60, (num, size, size, 1))
    return images.astype(np.uint8), labels


def trainer_of(model: nnx.Module | None = None, data: Any = None, **arguments: Any) -> Trainer:
    """Returns a Trainer that draws no bar and, without `log_dir`, writes nothing.

    Args:
        model: None for a `TinyNet`.
        data: None for stripes, in four train and two validation batches of 16.
        arguments: those of `Trainer`; two epochs unless they set a limit.
    """
    if model is None:
        model = TinyNet(4, rngs=nnx.Rngs(0))
    if data is None:
        data = DataModule(tiny_arrays(num=64), tiny_arrays(num=32, seed=1), batch_size=16)
    defaults: dict[str, Any] = {"log_dir": None, "progress_bar": False}
    if not {"max_epochs", "max_steps"} & set(arguments):
        defaults["max_epochs"] = 2
    return Trainer(model, data, **{**defaults, **arguments})


class At(Callback):
    """Calls `action(trainer)` after one train step."""

    def __init__(self, step: int, action: Callable[[Any], object]) -> None:
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        if trainer.global_step == self.step:
            self.action(trainer)


def press_ctrl_c(trainer: Any) -> None:
    """What the terminal does when Ctrl-C is pressed; an action for `At`."""
    signal.raise_signal(signal.SIGINT)


# 32 points of two classes, for `linear_trainer`.
X = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)


def linear_trainer(
    task: Task | None = None,
    *,
    model: nnx.Module | None = None,
    num_outputs: int = 2,
    labels: np.ndarray = Y,
    log_dir: Any = None,
) -> Trainer:
    """A Trainer of one linear layer for one epoch of two batches."""
    model = nnx.Linear(4, num_outputs, rngs=nnx.Rngs(0)) if model is None else model
    split = (X, labels)
    data = DataModule(split, split, split, batch_size=16)
    return Trainer(model, data, task=task, max_epochs=1, log_dir=log_dir, progress_bar=False)


def loss_task(loss: Any, metrics: Any = None, predict: Any = None) -> Task:
    """A task with this loss, a function of the model's outputs and the batch."""

    class Mine(Task):
        def outputs(self, model: Any, batch: Any) -> Any:
            returned = loss(model(batch["image"]), batch)
            return returned if isinstance(returned, dict | str) else {"loss": returned}

        def predict(self, model: Any, batch: Any) -> Any:
            outputs = model(batch["image"])
            return outputs if predict is None else predict(outputs)

    if metrics is not None:
        Mine.metrics = metrics
    return Mine()


class RecordingCallback(Callback):
    """Keeps the name of every hook that was called, in `calls`, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []


def _record(name: str) -> Any:
    @functools.wraps(getattr(Callback, name))
    def hook(self: RecordingCallback, *args: Any, **kwargs: Any) -> None:
        self.calls.append(name)

    return hook


for _name in dir(Callback):
    if _name.startswith("on_") or _name in ("setup", "teardown"):
        setattr(RecordingCallback, _name, _record(_name))


@contextlib.contextmanager
def obstacle(path: Path, kind: str, target: Path) -> Iterator[None]:
    """Puts something that is not a regular file at `path`; links point to `target`."""
    if kind == "link":
        path.symlink_to(target)
    elif kind == "link to nothing":
        path.symlink_to(target.with_name("nothing"))
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        here = Path.cwd()
        with socket.socket(socket.AF_UNIX) as opened:
            os.chdir(path.parent)  # the path may be too long for a socket
            opened.bind(path.name)
            os.chdir(here)
            yield
        return
    yield


def write_run(
    log_dir: Path,
    name: str,
    accuracies: Sequence[float] = (),
    *,
    test_accuracy: float | None = None,
    **environment: Any,
) -> Path:
    """Writes the folder of a run that finished, with a validation every 10 steps.

    Args:
        log_dir: the folder of all runs.
        name: of the run.
        accuracies: of the validation after each epoch; its loss is 1.5 minus the accuracy.
        test_accuracy: of a test after the last epoch, None for no test.
        environment: more entries of `environment.json`.

    Returns:
        The folder of the run.
    """
    run_dir = create_run_dir(log_dir, name)
    (run_dir / "config.yaml").touch()
    lines: list[dict[str, float]] = [
        {"step": 10 * (k + 1), "epoch": k, "train/loss": 1.0, "lr": 0.1,
         "val/loss": 1.5 - value, "val/accuracy": value}
        for k, value in enumerate(accuracies)
    ]  # fmt: skip
    if test_accuracy is not None:
        test = {"test/loss": 1 - test_accuracy, "test/accuracy": test_accuracy}
        lines.append({"step": 10, "epoch": 9, **test})
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = {
        "status": "finished",
        "started": "2026-11-25T10:00:00+0000",
        "ended": "2026-11-25T11:02:03+0000",
    }
    (run_dir / "environment.json").write_text(json.dumps({**record, **environment}))
    return run_dir


def event_values(folder: Path, tag: str) -> list[tuple[int, Any]]:
    """Returns the steps and values of a tag as TensorBoard's `EventAccumulator` reads them.

    The value of a scalar is a number, that of an image or a histogram its event, that of a text or
    of a session an array, or a number if it has one element.
    """
    events = event_accumulator(folder)
    return [(event.step, _value(event)) for event in events_of(events, tag)]


def event_accumulator(folder: Path) -> Any:
    """Returns an `EventAccumulator` that has read a whole folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kinds = ("scalars", "images", "histograms", "tensors")
    events = EventAccumulator(str(folder), size_guidance=dict.fromkeys(kinds, 0))
    return events.Reload()


def events_of(events: Any, tag: str) -> list[Any]:
    """Returns the events of a tag, whatever its kind."""
    readers = {"scalars": "Scalars", "images": "Images", "histograms": "Histograms",
               "tensors": "Tensors"}  # fmt: skip
    tags = events.Tags()
    kinds = [kind for kind in readers if tag in tags.get(kind, ())]
    return getattr(events, readers[kinds[0]])(tag) if kinds else []


def _value(event: Any) -> Any:
    from tensorboard.util.tensor_util import make_ndarray

    if hasattr(event, "value"):
        return event.value
    if not hasattr(event, "tensor_proto"):
        return getattr(event, "histogram_value", event)
    array = make_ndarray(event.tensor_proto)
    return array.item() if array.size == 1 else array


def collectives(program: str) -> list[tuple[str, str]]:
    """What the devices say to each other in a compiled program, in its text's order.

    Returns:
        A kind and the dtype and shape of its result, such as ("all-gather", "f32[8,4096]");
        a collective over several arrays is there once for each.
    """
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    kinds += "|collective-broadcast|ragged-all-to-all"
    found = re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", program)
    return [
        (kind, array) for result, kind in found for array in re.findall(r"\w+\[[\d,]*\]", result)
    ]


def train_program(trainer: Any) -> str:
    """The compiled train step of a Trainer of arrays: what each device is to do, as text."""
    loader = trainer.data.train
    evaluation, _ = trainer._verbs.preparation.for_training()
    arrays, placement = trainer._arrays, trainer.placement
    arrays.begin_training(trainer._verbs.preparation.optimizers)
    batch = placement.send(next(loader.batches(reads=False)), loader.batch_size)
    key = placed(augmentation_key(seed=0, epoch=0), placement.replicated)
    compiled = arrays.steps.train.function.lower(
        arrays.take(),
        evaluation.empty,
        trainer.data.on_device(placement.replicated),
        batch,
        key,
    ).compile()
    return getattr(compiled, "compiled", compiled).as_text()

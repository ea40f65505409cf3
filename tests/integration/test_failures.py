"""A run that an exception ends is saved, and started again ends as if nothing had happened."""

import inspect
import json
import time

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import RecordingCallback, tiny_arrays, trainer_of, tree_equal

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.callbacks import Callback, EarlyStopping, ModelCheckpoint, TensorBoard
from nnx_alexnet.checkpoints import save as saving
from nnx_alexnet.training.dispatcher import Dispatcher

TRAIN, VAL = tiny_arrays(num=80), tiny_arrays(num=20, seed=1)
STEPS = 5  # per epoch


class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(64, 4, rngs=rngs)

    def __call__(self, image):
        return self.head(self.dropout(self.norm(image.reshape(len(image), -1))))


class OnPurposeError(OSError):
    """As of a disk that is away for a moment."""


class Fails(Callback):
    """Raises once, at a hook, at the first step from `step` on."""

    def __init__(self, hook, step, error=OnPurposeError):
        self.hook, self.step, self.error, self.is_done = hook, step, error, False

    def _reached(self, hook, trainer):
        if hook == self.hook and trainer.global_step >= self.step and not self.is_done:
            self.is_done = True
            raise self.error("on purpose")


def _hook(name):
    arguments = list(inspect.signature(getattr(Callback, name)).parameters)
    namespace = {}
    code = f"def {name}({', '.join(arguments)}): self._reached({name!r}, trainer)"
    exec(code, namespace)
    return namespace[name]


HOOKS = [
    "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_train_batch_end",
    "on_validation_start", "on_validation_batch_end", "on_validation_epoch_end",
    "on_validation_end", "on_train_epoch_end", "on_train_end", "on_fit_end",
]  # fmt: skip
for _name in HOOKS:
    setattr(Fails, _name, _hook(_name))


class EvaluatesZeros(Callback):
    """Puts other parameters in for each validation, as averaged weights are."""

    def on_validation_start(self, trainer):
        self.kept = jax.tree.map(lambda x: x.copy(), nnx.state(trainer.model, nnx.Param))
        nnx.update(trainer.model, jax.tree.map(np.zeros_like, self.kept))

    def on_validation_end(self, trainer):
        nnx.update(trainer.model, self.kept)


def failing_trainer(model, logs, callback=None, *, saves=True, name="run"):
    stopping = EarlyStopping(patience=9)
    saver = ModelCheckpoint(every_n_epochs=None, save_on_exception=saves)
    quiet = TensorBoard(images=False, histograms=False, texts=False)
    callbacks = [stopping, EvaluatesZeros(), *([callback] if callback else []), saver, quiet]
    data = DataModule(TRAIN, VAL, batch_size=16)
    return trainer_of(
        model, data, optimizer=optax.adam(1e-2), log_dir=logs, name=name, log_every_n_steps=3,
        callbacks=callbacks,
    )  # fmt: skip


def result(trainer):
    """All that a run leaves, without what depends on the clock."""
    rows = map(json.loads, (trainer.run_dir / "metrics.jsonl").read_text().splitlines())
    log, history = (
        [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in each]
        for each in (rows, trainer.history)
    )
    stopping = next(each for each in trainer.callbacks if isinstance(each, EarlyStopping))
    return log, history, stopping.state_dict()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The state and the result of a run to which nothing happens."""
    model = Net()
    trainer = failing_trainer(model, tmp_path_factory.mktemp("unbroken"))
    trainer.fit()
    return nnx.state(model), result(trainer)


def check(model, trainer, unbroken):
    assert tree_equal(nnx.state(model), unbroken[0])
    assert result(trainer) == unbroken[1]


# Within an epoch, as one ends, and at the end.
CASES = [
    ("on_train_start", 0), ("on_train_batch_end", 7), ("on_validation_batch_end", STEPS),
    ("on_train_end", 10),
]  # fmt: skip
ALL_CASES = [(hook, step) for hook in HOOKS for step in (0, 4, STEPS, 7, 10)]


def run_again(model, logs, hook, step, unbroken, *, saves, same_trainer):
    """Runs until it does not fail; each time as a script that catches the error would."""
    callback = Fails(hook, step)
    trainer = failing_trainer(model, logs, callback, saves=saves)
    for _ in range(2):
        try:
            trainer.fit(resume="auto")
        except OnPurposeError:
            if not same_trainer:
                trainer = failing_trainer(model, logs, callback, saves=saves)
        else:
            break
    check(model, trainer, unbroken)


@pytest.mark.parametrize(("hook", "step"), CASES)
def test_a_run_that_a_callback_ended_resumes_from_its_last_step(tmp_path, unbroken, hook, step):
    run_again(Net(), tmp_path, hook, step, unbroken, saves=True, same_trainer=False)


@pytest.mark.parametrize("same_trainer", [True, False])
def test_without_a_checkpoint_it_begins_again_as_it_began(tmp_path, unbroken, same_trainer):
    options = {"saves": False, "same_trainer": same_trainer}
    run_again(Net(), tmp_path, "on_train_batch_end", 7, unbroken, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("hook", "step"), ALL_CASES)
@pytest.mark.parametrize(
    "options",
    [{"saves": saves, "same_trainer": same} for saves in (True, False) for same in (True, False)],
)
def test_wherever_it_fails_it_ends_the_same(tmp_path, unbroken, hook, step, options):
    run_again(Net(), tmp_path, hook, step, unbroken, **options)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end"])
def test_a_callback_that_ends_the_program_leaves_the_last_step_too(tmp_path, hook):
    trainer = failing_trainer(Net(), tmp_path, Fails(hook, 3, SystemExit))
    with pytest.raises(SystemExit, match="on purpose"):
        trainer.fit()
    saved = [path.name for path in (trainer.run_dir / "checkpoints").iterdir()]
    assert saved == [str(trainer.global_step)]


def test_what_ends_the_program_between_two_hooks_is_not_saved(tmp_path, monkeypatch):
    trainer = failing_trainer(Net(), tmp_path)

    def end(*arguments, **named):  # as the handler of a signal does
        raise SystemExit(3)

    monkeypatch.setattr(Dispatcher, "send", end)
    with pytest.raises(SystemExit):
        trainer.fit()
    assert [*(trainer.run_dir / "checkpoints").iterdir()] == []


class EndsBadly(Callback):
    """Raises at each hook that it is given."""

    def __init__(self, **errors):
        self.errors = errors

    def on_exception(self, trainer, exception):
        if "on_exception" in self.errors:
            raise self.errors["on_exception"]

    def teardown(self, trainer, stage):
        if "teardown" in self.errors:
            raise self.errors.pop("teardown")


def test_ctrl_c_in_on_exception_keeps_no_callback_from_its_teardown():
    recorder = RecordingCallback()
    callbacks = [EndsBadly(on_exception=KeyboardInterrupt()), Fails("on_validation_start", 0)]
    trainer = Trainer(
        Net(), (TRAIN, VAL), callbacks=[*callbacks, recorder], log_dir=None, progress_bar=False
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.validate()
    assert recorder.calls == ["setup", "on_exception", "teardown"]


def test_a_first_save_that_fails_is_none_to_resume_from(tmp_path, unbroken, monkeypatch):
    def fails(*arguments):
        time.sleep(0.3)  # until the next save is due
        raise OSError("the disk is away")

    model = Net()
    trainer = failing_trainer(model, tmp_path)
    saver = next(each for each in trainer.callbacks if isinstance(each, ModelCheckpoint))
    saver.every_n_steps = 2
    monkeypatch.setattr(saving, "write_checkpoint", fails)
    with pytest.raises(OSError, match="the disk is away"):
        trainer.fit()
    monkeypatch.undo()
    saver.every_n_steps = None
    trainer.fit(resume="auto")
    check(model, trainer, unbroken)

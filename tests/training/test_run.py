"""`Run`: the folder of a run, its lock and its checkpoints, on each way out."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from nnx_alexnet.runs import RunLock
from nnx_alexnet.training.progress import Progress
from nnx_alexnet.training.requests import Requests
from nnx_alexnet.training.run import Run
from nnx_alexnet.training.settings import Settings

POLICY = SimpleNamespace(
    keep_latest=2, ranked_by=None, mode="min", save_top_k=0, on_error="raise"
)  # fmt: skip
IDENTITY = {"seed": 0, "hyperparams": {"optimizer/rate": 0.1}}
LOOP = {"epoch": 0, "step_in_epoch": 3, "global_step": 3}


class Made:
    """A run and the parts around it."""

    def __init__(self, log_dir, **settings):
        self.progress = Progress(lambda metrics, step: None)
        self.requests = Requests(self.progress.stop)
        self.saved = []
        self.run = Run(
            Settings(name="run", log_dir=log_dir, **settings), {"seed": 0}, self.progress,
            self.requests, on_saved=lambda: self.saved.append(True),
        )  # fmt: skip

    def open(self, resume="never", accept=(), **changes):
        return self.run.open(
            resume, accept, identity=IDENTITY | changes, about_data={"name": "digits"},
            policy=POLICY, parameter_names=["w"],
        )  # fmt: skip

    def save(self, step=3, value=1.0):
        loop = {**LOOP, "identity": IDENTITY}
        self.run.checkpoints.save(step, {"model/w": np.float32([value])}, loop)


@pytest.fixture
def made(tmp_path):
    return Made(tmp_path)


def end_of(run):
    """How the run ended, as its folder records it."""
    record = json.loads((run.run_dir / "environment.json").read_text())
    return {name: record.get(name) for name in ("status", "stop_reason", "error")}


def test_a_new_run_has_a_folder_a_record_and_nothing_to_resume(made, tmp_path):
    with made.run.closing():
        assert made.open() == (None, [])
        assert made.run.run_dir == tmp_path / "run/version_0"
        assert (made.run.run_dir / "config.yaml").read_text().splitlines() == ["seed: 0"]
        assert made.run.checkpoints.steps == []
        assert made.run.identity == IDENTITY
        assert made.run.about_data == {"name": "digits"}


def test_two_new_runs_have_two_folders(made, tmp_path):
    other = Made(tmp_path)
    with made.run.closing(), other.run.closing():
        made.open()
        other.open()
    assert other.run.run_dir.name == "version_1"


def test_the_folder_is_locked_until_the_run_is_closed(made):
    with made.run.closing():
        made.open()
        with pytest.raises(ValueError, match="is being written"):
            RunLock(made.run.run_dir)
    RunLock(made.run.run_dir).close()


def test_a_saved_run_is_continued(made, tmp_path):
    with made.run.closing():
        made.open()
        made.save(step=2)
        made.save(step=3, value=5.0)
    assert made.saved == [True], "the initial weights are not needed any more"
    again = Made(tmp_path)
    with again.run.closing():
        saved, accepted = again.open("auto")
        assert again.run.run_dir == made.run.run_dir
        assert (saved.step, saved.arrays["model/w"].tolist(), accepted) == (3, [5.0], [])


def test_a_run_without_a_checkpoint_keeps_its_initial_weights(made):
    with made.run.closing():
        made.open()
    assert made.saved == []


def saved_run(tmp_path):
    made = Made(tmp_path)
    with made.run.closing():
        made.open()
        made.save()


def test_another_run_is_refused_and_the_lock_released(tmp_path):
    saved_run(tmp_path)
    other = Made(tmp_path)
    with pytest.raises(ValueError, match="is another run"), other.run.closing():
        other.open("auto", seed=1)
    assert other.run.run_dir is None, "the folder is not known to be of this run"
    RunLock(tmp_path / "run/version_0").close()


def test_accepted_differences_are_returned_by_their_paths(tmp_path):
    saved_run(tmp_path)
    other = Made(tmp_path)
    with other.run.closing():
        _, accepted = other.open("auto", ["hyperparams"], hyperparams={"optimizer/rate": 0.2})
    assert accepted == ["optimizer/rate"]


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (None, {"status": "finished", "stop_reason": None, "error": None}),
        (
            ValueError("of data\nin two lines"),
            {"status": "failed", "stop_reason": None, "error": "ValueError: of data"},
        ),
        (KeyboardInterrupt(), {"status": "interrupted", "stop_reason": None, "error": None}),
    ],
    ids=["finished", "failed", "ctrl-c"],
)
def test_each_way_out_is_recorded_and_releases_the_lock(made, error, end):
    def run():
        with made.run.closing():
            made.open()
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)) as raised:
            run()
        assert raised.value is error
    assert end_of(made.run) == end
    RunLock(made.run.run_dir).close()


def test_the_reason_of_a_stop_is_recorded(made):
    with made.run.closing():
        made.open()
        made.requests.stop("good enough")
    assert end_of(made.run) == {"status": "finished", "stop_reason": "good enough", "error": None}


def test_a_signal_makes_a_run_an_interrupted_one(made):
    with made.run.closing():
        made.open()
        made.requests.interrupt(15)
    assert end_of(made.run)["status"] == "interrupted"


def test_a_save_that_failed_in_the_background_fails_the_run(made):
    made.open()
    with pytest.raises(FloatingPointError, match="`w`"), made.run.closing():
        made.save(value=np.nan)
    assert end_of(made.run)["status"] == "failed"
    RunLock(made.run.run_dir).close()


def test_a_save_that_failed_does_not_hide_the_error_of_the_run(made, warnings):
    made.open()
    made.save(value=np.nan)
    with pytest.raises(ValueError, match="mine"), made.run.closing():
        raise ValueError("mine")
    assert "Saving a checkpoint also failed" in warnings.text
    assert end_of(made.run)["error"] == "ValueError: mine"


def test_numbers_that_are_not_finite_are_saved_where_that_is_allowed(tmp_path):
    made = Made(tmp_path, check_finite=False)
    with made.run.closing():
        made.open()
        made.save(value=np.nan)
        made.run.checkpoints.wait()
        assert made.run.checkpoints.steps == [3]


def test_an_end_that_cannot_be_recorded_is_a_warning(made, warnings, monkeypatch):
    def fails(*arguments, **named):
        raise OSError("the disk is full")

    monkeypatch.setattr("nnx_alexnet.training.run.write_end", fails)
    with made.run.closing():
        made.open()
    assert [record.levelname for record in warnings.records] == ["WARNING"]
    assert "the disk is full" in warnings.text
    RunLock(made.run.run_dir).close()


def test_a_run_that_was_never_opened_closes_without_a_trace(made, tmp_path):
    with made.run.closing():
        pass
    assert made.run.run_dir is None
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("log_dir", "resume", "accept", "text"),
    [
        ("logs", "never", ["seed"], r"`accept` \(=\['seed'\]\) works only with `resume`"),
        (None, "auto", [], r"`resume` \(='auto'\) needs a `log_dir` to resume from"),
    ],
)
def test_arguments_of_fit_that_contradict_each_other_are_refused(log_dir, resume, accept, text):
    with pytest.raises(ValueError, match=text):
        Made(log_dir).run.check_resume(resume, accept)


@pytest.mark.parametrize(
    ("log_dir", "resume", "accept"), [(None, "never", []), ("logs", "auto", ["seed"])]
)
def test_other_arguments_of_fit_are_fine(log_dir, resume, accept):
    Made(log_dir).run.check_resume(resume, accept)

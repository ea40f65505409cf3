"""`Timer` ends a fit after a duration."""

from datetime import timedelta

import pytest
from fake_trainer import FakeTrainer
from flax import nnx
from helpers import Dense, trainer_of, tree_equal

from nnx_alexnet.callbacks import Timer
from nnx_alexnet.callbacks import timer as module


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (90, 90.0),
        (0.5, 0.5),
        (timedelta(minutes=2), 120.0),
        ("01:30:00", 5400.0),
        ("2:00:00:01", 172801.0),
        ({"hours": 1, "minutes": 30}, 5400.0),
    ],
    ids=str,
)
def test_a_duration_has_several_forms(given, seconds):
    assert Timer(given).seconds == seconds


@pytest.mark.parametrize(
    "given",
    [0, -1.0, True, None, float("nan"), float("inf"), "90", "1:75:00", {}, {"years": 1},
     timedelta(0)],
    ids=str,
)  # fmt: skip
def test_what_is_no_duration_is_refused(given):
    with pytest.raises(ValueError, match=r"`max_time` \(="):
        Timer(given)


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_resumed_run_continues_to_count(clock):
    first = Timer(10)
    trainer = FakeTrainer([first])
    trainer.begin()
    clock.now += 6
    trainer.run_epoch({})
    states = trainer.callbacks.state_dict()
    assert (trainer.stop_reason, states) == (
        None,
        {"Timer": {"elapsed": 6.0, "has_stopped": False}},
    )
    clock.now += 1000  # between the two starts
    again = FakeTrainer([Timer(10)])
    again.begin(states)
    clock.now += 3
    again.run_epoch({})
    assert again.stop_reason is None
    clock.now += 1
    again.run_epoch({}, steps=1)
    assert again.stop_reason == "`max_time` (=10) has elapsed"


def test_another_fit_starts_to_count_at_zero(clock):
    timer = Timer(10)
    for _ in range(2):
        trainer = FakeTrainer([timer])
        trainer.begin()
        clock.now += 6
        trainer.end()
        assert (timer.elapsed, trainer.stop_reason) == (6.0, None)


def test_the_epoch_of_the_last_step_ends_with_a_validation(tmp_path):
    trainer = trainer_of(
        Dense(), callbacks=[Timer(1e-6)], max_epochs=9, log_dir=tmp_path, steps_per_execution=1
    )
    assert trainer.fit() == []  # its time is over before the first step
    assert trainer.global_step == 0

    class AfterTwoSteps(Timer):
        @property
        def elapsed(self):
            return 100.0 if trainer.global_step == 2 else 0.0

    trainer = trainer_of(
        Dense(), callbacks=[AfterTwoSteps(60)], max_epochs=9, steps_per_execution=1
    )
    (row,) = trainer.fit()
    assert {"step": row["step"], "epoch": row["epoch"]} == {"step": 2, "epoch": 0}
    assert "val/loss" in row
    assert trainer.stop_reason == "`max_time` (=60) has elapsed"


def test_a_stopped_run_continues_exactly_if_it_is_resumed_with_more_time(tmp_path):
    def fitted(name, seconds, **arguments):
        class AtStep(Timer):
            """Two seconds have passed at step 2, within the first epoch, and so on."""

            @property
            def elapsed(self):
                return float(trainer.global_step)

        trainer = trainer_of(
            Dense(), callbacks=[AtStep(seconds)], max_epochs=2, steps_per_execution=1,
            name=name, log_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(**arguments)
        return trainer

    whole = fitted("whole", 1000)
    stopped = fitted("parts", 2)
    assert (stopped.global_step, stopped.step_in_epoch) == (2, 2)
    assert fitted("parts", 2, resume="auto").global_step == 2  # no more time
    resumed = fitted("parts", 1000, resume="auto")
    assert resumed.stop_reason is None
    assert resumed.global_step == whole.global_step > 2
    assert tree_equal(nnx.state(resumed.model), nnx.state(whole.model))

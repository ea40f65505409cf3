import json
import math

import pytest
from fake_trainer import FakeTrainer

from nnx_alexnet.callbacks import EarlyStopping, StopReason


def losses(*values, name="val/loss"):
    return [{} if value is None else {name: value} for value in values]


def fit(stopping, epochs):
    trainer = FakeTrainer([stopping])
    return trainer, trainer.run_fit(epochs)


@pytest.mark.parametrize(
    ("arguments", "values", "epochs", "reason"),
    [
        ({}, [4, 3, 2, 1, 0.5, 0.4], 6, None),
        ({}, [1, 2, 3, 4, 5, 6], 4, StopReason.PATIENCE),
        ({}, [1, 1, 1, 1, 1], 4, StopReason.PATIENCE),
        ({"patience": 1}, [3, 2, 2.5, 1], 3, StopReason.PATIENCE),
        ({"patience": 2}, [3, 4, 2, 3, 1, 2, 2, 2], 7, StopReason.PATIENCE),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.6, 2.5, 1], 3, StopReason.PATIENCE),
        ({"patience": 2}, [1, None, 2, None, 3, None], 5, StopReason.PATIENCE),
        ({"mode": "max", "patience": 2}, [1, 2, 3, 2, 2], 5, StopReason.PATIENCE),
        ({"threshold": 0.5}, [1, 0.6, 0.5, 0.1], 3, StopReason.THRESHOLD),
        ({"threshold": 0.9, "mode": "max"}, [0.5, 0.95], 2, StopReason.THRESHOLD),
        ({"threshold": 0.4, "min_delta": 1}, [0.5, 0.3], 2, StopReason.THRESHOLD),
        ({"divergence_threshold": 5}, [1, 5, 5.5, 0.1], 3, StopReason.DIVERGENCE),
        ({"divergence_threshold": 0.1, "mode": "max"}, [0.5, 0.05], 2, StopReason.DIVERGENCE),
        ({}, [1, math.nan, 0.5], 2, StopReason.NOT_FINITE),
        ({"mode": "max"}, [1, math.inf, 2], 2, StopReason.NOT_FINITE),
        ({"check_finite": False, "patience": 2}, [math.nan, 1, math.nan, math.inf], 4, "patience"),
        ({"check_finite": False}, [math.nan, math.nan, math.nan], 3, StopReason.PATIENCE),
    ],
)
def test_when_and_why_training_stops(arguments, values, epochs, reason):
    stopping = EarlyStopping(**arguments)
    trainer, count = fit(stopping, losses(*values))
    assert count == epochs
    assert stopping.stop_reason == (StopReason(reason) if reason is not None else None)
    assert (trainer.stop_reason is None) == (reason is None)
    assert stopping.stopped_step == (None if reason is None else 10 * epochs)


def test_the_reason_names_metric_and_values():
    assert fit(EarlyStopping(patience=2), losses(1, 2, 3))[0].stop_reason == (
        "val/loss has not improved in 2 checks (best 1 at step 10)"
    )
    assert fit(EarlyStopping(patience=1), losses(1, 2))[0].stop_reason == (
        "val/loss has not improved in 1 check (best 1 at step 10)"
    )
    assert fit(EarlyStopping(threshold=0.5), losses(0.25))[0].stop_reason == (
        "val/loss is 0.25 and has reached the threshold 0.5"
    )
    assert fit(EarlyStopping(divergence_threshold=2), losses(3))[0].stop_reason == (
        "val/loss is 3, worse than the divergence threshold 2"
    )
    assert fit(EarlyStopping(), losses(math.nan))[0].stop_reason == "val/loss is nan"


def test_one_instance_serves_two_fits():
    stopping = EarlyStopping(patience=2)
    assert fit(stopping, losses(1, 2, 3, 4))[1] == 3
    assert fit(stopping, losses(9, 8, 7, 6))[1] == 4
    assert (stopping.stop_reason, stopping.stopped_step, stopping.best) == (None, None, 6)


def test_a_resumed_run_stops_where_an_uninterrupted_one_does():
    values = [3, 2, 2.5, 2.4, 2.3, 1]
    unbroken, count = fit(EarlyStopping(patience=3), losses(*values))
    first = EarlyStopping(patience=3)
    trainer, _ = fit(first, losses(*values[:4]))
    states = json.loads(json.dumps(trainer.callbacks.state_dict()))
    resumed = EarlyStopping(patience=3)
    rest = FakeTrainer([resumed])
    rest.global_step, rest.epoch = trainer.global_step, trainer.epoch
    rest.begin(states)
    assert 4 + rest.run(losses(*values[4:])) == count == 5
    assert rest.stop_reason == unbroken.stop_reason


def test_arguments_in_the_code_win_over_the_checkpoint():
    trainer, _ = fit(EarlyStopping(patience=2), losses(1, 2))
    patient = EarlyStopping(patience=5)
    rest = FakeTrainer([patient])
    rest.begin(trainer.callbacks.state_dict())
    assert rest.run(losses(2, 2, 2, 2, 2)) == 4
    assert "patience" not in patient.state_dict()


def test_a_stale_value_is_not_checked():
    stopping = EarlyStopping(patience=1)
    trainer = FakeTrainer([stopping])
    trainer.begin()
    trainer.run(losses(1))
    for _ in range(5):
        trainer.run([{"train/loss": 1.0}])  # `metrics` still has val/loss of the first epoch
    assert stopping.num_bad_checks == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"patience": 0},
        {"patience": 2.5},
        {"threshold": math.nan},
        {"divergence_threshold": math.nan},
    ],
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
        EarlyStopping(**arguments)


def test_two_metrics_can_be_monitored():
    stoppings = [EarlyStopping("val/loss"), EarlyStopping("val/accuracy", mode="max")]
    trainer = FakeTrainer(stoppings)
    trainer.begin()
    trainer.run_epoch({"val/loss": 1.0, "val/accuracy": 0.5})
    assert set(trainer.callbacks.state_dict()) == {
        "EarlyStopping(val/loss)",
        "EarlyStopping(val/accuracy)",
    }

import optax
import pytest
from fake_trainer import FakeTrainer

from nnx_alexnet.callbacks import Callback, LearningRateMonitor


class Log(Callback):
    def __init__(self):
        self.rates = []

    def on_log(self, trainer, metrics, step):
        if "lr" in metrics:
            self.rates.append((step, pytest.approx(metrics["lr"])))


def run(callback, *, epochs=2, **arguments):
    log = Log()
    FakeTrainer([callback, log], **arguments).run_fit([{}] * epochs)
    return log.rates


def test_the_schedule_gives_the_rate_of_the_newest_step():
    schedule = optax.linear_schedule(1.0, 0.0, transition_steps=100)
    # Step 10 is the tenth: optax counts from 0, so it ran at schedule(9).
    assert run(LearningRateMonitor(schedule)) == [(10, 0.91), (20, 0.81)]


@pytest.mark.usefixtures("strict_dtype_promotion")
def test_a_schedule_of_optax_may_promote_dtypes():
    schedule = optax.cosine_onecycle_schedule(100, 1.0, pct_start=0.19)
    assert run(LearningRateMonitor(schedule))[1] == (20, 1.0)


def test_a_constant_rate_is_published_each_epoch():
    assert run(LearningRateMonitor(0.1)) == [(10, 0.1), (20, 0.1)]


def test_every_n_steps_adds_points_and_repeats_none():
    by_4, by_5 = (run(LearningRateMonitor(0.1, every_n_steps=n)) for n in (4, 5))
    assert [step for step, _ in by_4] == [4, 8, 10, 12, 16, 20]
    assert [step for step, _ in by_5] == [5, 10, 15, 20]


def test_an_optimizer_that_stores_its_rate_needs_no_schedule():
    assert run(LearningRateMonitor(), learning_rate=0.5) == [(10, 0.5), (20, 0.5)]


def test_a_rate_that_the_trainer_published_is_not_published_again():
    log = Log()
    FakeTrainer([LearningRateMonitor(0.1), log]).run_fit([{"lr": 0.3}])
    assert log.rates == [(10, 0.3)]


def test_an_optimizer_that_does_not_store_its_rate_needs_a_schedule():
    with pytest.raises(ValueError, match=r"inject_hyperparams.*LearningRateMonitor\(schedule\)"):
        FakeTrainer([LearningRateMonitor()]).begin()


def test_a_period_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="`every_n_steps`"):
        LearningRateMonitor(0.1, every_n_steps=0)

"""The number of steps of a run, and the schedules of extended runs."""

import optax
import pytest
from parts import Product, Scale, split_of

from nnx_alexnet import DataModule, Trainer, create_optimizer
from nnx_alexnet.optimizers import dynamic_loss_scale
from nnx_alexnet.training import num_steps
from nnx_alexnet.training.run_length import check_extension

COSINE = optax.cosine_decay_schedule(0.1, 8)  # two epochs of four steps
FLOOR = optax.cosine_decay_schedule(0.1, 8, alpha=0.5)


def fitted(folder, optimizer, max_epochs, check_finite=True, **options):
    data = DataModule(split_of(*[1.0] * 8), split_of(2.0), batch_size=2)
    trainer = Trainer(
        Scale(8.0), data, task=Product(), optimizer=optimizer, max_epochs=max_epochs,
        log_dir=folder, progress_bar=False, check_finite=check_finite,
    )  # fmt: skip
    trainer.fit(**options)
    return trainer


def test_the_shorter_of_two_limits_counts_and_the_default_without_any():
    assert num_steps(2, None, 4) == 8
    assert num_steps(2, 5, 4) == 5
    assert num_steps(None, None, 4) == 40  # ten epochs
    assert num_steps(2, None, None) is None


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(COSINE),
        create_optimizer("sgd", schedule="cosine", num_steps=8, rate_factors={"weight": 0.5}),
        create_optimizer("sgd", schedule="one_cycle", num_steps=8),  # ends at 4e-6 of the highest
    ],
    ids=["one", "groups", "one cycle"],
)
def test_extending_a_run_beyond_its_schedule_must_be_accepted(tmp_path, optimizer):
    fitted(tmp_path, optimizer, 2)
    before = (tmp_path / "scale/version_0/config.yaml").read_text()
    fitted(tmp_path, optimizer, 2, resume="auto")  # the length that it had
    with pytest.raises(ValueError, match=r'from 8 to 16 steps, .* accept=\["schedule"\]'):
        fitted(tmp_path, optimizer, 4, resume="auto")
    assert (tmp_path / "scale/version_0/config.yaml").read_text() == before
    assert fitted(tmp_path, optimizer, 4, resume="auto", accept="schedule").global_step == 16


def test_a_longer_schedule_or_one_with_a_floor_extends_a_run(tmp_path, caplog):
    fitted(tmp_path, optax.sgd(FLOOR), 2)
    caplog.set_level("INFO", logger="nnx_alexnet")
    fitted(tmp_path, optax.sgd(FLOOR), 3, resume="auto")
    assert "from 8 to 12 steps" in caplog.text
    assert "a learning rate of 0.05 for the first new step, and 0.05 for the last" in caplog.text
    longer = optax.sgd(optax.cosine_decay_schedule(0.1, 16))
    trainer = fitted(tmp_path, longer, 4, resume="auto", accept="optimizer")
    assert trainer.global_step == 16


@pytest.mark.usefixtures("strict_dtype_promotion")
@pytest.mark.parametrize("num_steps", [8, 12, 100_000])
def test_a_schedule_that_ends_with_the_new_end_is_not_refused(tmp_path, num_steps):
    """Near its end, the rate of a long cosine schedule is 0 in float32."""
    (tmp_path / "config.yaml").write_text(f"trainer: {{max_steps: {num_steps // 2}}}")
    for optimizer in (optax.cosine_decay_schedule(0.1, num_steps), lambda _: 0.1):
        check_extension(
            tmp_path, (), transformation=optax.sgd(optimizer), run_steps=num_steps,
            steps_per_epoch=None,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("of_half_the_steps", "check_finite"),
    [
        (lambda: optax.MultiSteps(optax.sgd(COSINE), 2), True),
        (lambda: optax.MultiSteps(optax.sgd(COSINE), 2), 3),
        (lambda: dynamic_loss_scale(optax.MultiSteps(optax.sgd(COSINE), 2)), True),
    ],
    ids=["alone", "counted", "scaled"],
)
def test_a_schedule_of_every_second_step_is_not_refused(tmp_path, of_half_the_steps, check_finite):
    fitted(tmp_path, of_half_the_steps(), 2, check_finite=check_finite)
    trainer = fitted(tmp_path, of_half_the_steps(), 4, check_finite=check_finite, resume="auto")
    assert trainer.global_step == 16  # the schedule ends at step 16

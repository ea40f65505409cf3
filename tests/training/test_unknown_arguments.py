"""Arguments that a Trainer does not have, and what its error names in their place."""

import inspect

import pytest

from nnx_alexnet import Trainer
from nnx_alexnet.support import NAMES_ELSEWHERE, NOTES, ONLY_IN_PYTHON

EXPECTED = {
    "ema": "Use callbacks=[EMA(...)].",
    "accumulate_grad_batches": "Use `num_micro_batches` of the Trainer. It divides each batch",
    "gradient_clip_val": "Use create_optimizer(clip_norm=...) as `optimizer`.",
    "precision": "Use `dtype` of the model.",
    "limit_train_batches": "Use `limit_batches` of the Trainer. It limits all splits",
    "max_time": "Use callbacks=[Timer(...)].",
    "val_check_interval": "Use `validate_every_n_steps` of the Trainer.",
    "auto_lr_find": "Use nnx_alexnet.tuning.find_learning_rate.",
    "batch_size": "Use `batch_size` of the data (`load_data` or `DataModule`).",
    "lr": "Use create_optimizer(learning_rate=...) as `optimizer`.",
    "ckpt_path": "Use fit(resume=...).",
    "gpus": "Use `devices` of the Trainer.",
    "class_weight": "Use Classification(class_weights=...) as `task`.",
    "metrics": "Use Classification(metrics=...) as `task`.",
    "loss": "Use `task` of the Trainer.",
    "max_epoch": "Did you mean `max_epochs`?",
    "overfit_batch": "Did you mean `overfit_batches`?",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_error_names_what_to_use(name):
    with pytest.raises(TypeError) as caught:
        Trainer(None, None, **{name: 1})
    start = f"Trainer() has no argument `{name}`. {EXPECTED[name]}"
    assert str(caught.value).startswith(start)


def test_an_argument_without_a_counterpart_is_only_refused():
    with pytest.raises(TypeError, match=r"^Trainer\(\) has no argument `zzz`\.$"):
        Trainer(None, None, zzz=1)


def test_fit_explains_the_arguments_of_other_trainers():
    with pytest.raises(TypeError, match=r"Trainer\.fit\(\) has no argument `epochs`. Use `max_ep"):
        Trainer.fit(None, epochs=3)


def test_a_model_and_data_belong_to_the_trainer():
    with pytest.raises(TypeError, match=r"fit\(\) takes resume, accept by name only\. The model"):
        Trainer.fit(None, "model", "data")
    with pytest.raises(TypeError, match=r"^Trainer\(\) takes task, .* by name only\."):
        Trainer("model", "data", "task")


def test_the_signature_stays_and_no_argument_is_listed_as_a_name_of_another_trainer():
    names = [*inspect.signature(Trainer).parameters]
    assert names[:3] == ["model", "data", "task"]
    words = " ".join([*NAMES_ELSEWHERE.values(), *ONLY_IN_PYTHON.values()]).split()
    assert not {*names} & {*words} - {"name"}
    assert {*NOTES} <= {*NAMES_ELSEWHERE}

"""Errors in the words of the command line."""

import pytest

from nnx_alexnet import create_optimizer, load_data
from nnx_alexnet.callbacks import EarlyStopping
from nnx_alexnet.cli.option_messages import as_options, group_of, is_about_option
from nnx_alexnet.support import check_integer

OPTIONS = [
    "data", "data.name", "data.seed", "data.batch_size", "data.cache", "model", "optimizer.name",
    "optimizer.num_steps", "trainer.name", "trainer.devices", "seed", "resume",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "group", "expected"),
    [
        ("`seed` (=-1) is bad.", None, "--seed (=-1) is bad."),
        ("`seed` (=-1) is bad.", "data", "--data.seed (=-1) is bad."),
        ("`name` (='x') is unknown.", "data", "--data (='x') is unknown."),
        ("`name` (='x') is unknown.", None, "`name` (='x') is unknown."),
        ("`num_steps` (=None) is bad.", None, "--optimizer.num_steps (=null) is bad."),
        ("Use `cache=True`, or None.", None, "Use --data.cache true, or null."),
        ('pass resume="auto" or a run.', None, "pass --resume auto or a run."),
        ("`data`, `model` and `task` differ.", None, "--data, --model and `task` differ."),
        ("`--data` (=a.b) is bad.", None, "--data (=a.b) is bad."),
        ("`load_data(batch_size=3)` works.", None, "`load_data(batch_size=3)` works."),
        ("`run` (=None) is bad, or `x`.", None, "RUN (=null) is bad, or `x`."),
        (
            "`patience` (=0) is bad.",
            "trainer.callbacks",
            "--trainer.callbacks.patience (=0) is bad.",
        ),
    ],
)
def test_arguments_become_options(text, group, expected):
    assert as_options(text, OPTIONS, ["run"], group) == expected


def test_calls_that_resume_become_options():
    text = (
        "Use fit(resume=..., accept=['data', 'seed']), or call load_checkpoint(run, model) first."
    )
    expected = "Use --resume-accept data seed, or add --resume-weights-only."
    assert as_options(text, [*OPTIONS, "resume-weights-only"], [], None) == expected


@pytest.mark.parametrize(
    ("call", "group"),
    [
        (lambda: load_data("digits", seed=-1), "data"),
        (lambda: create_optimizer("adm"), "optimizer"),
        (lambda: EarlyStopping(patience=0), "trainer.callbacks"),
        (lambda: check_integer("x", 0), None),
    ],
)
def test_the_group_is_that_of_the_code_that_raised(call, group):
    with pytest.raises(ValueError, match="`") as raised:
        call()
    assert group_of(raised.value) == group


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--data (=x) is bad.", True),
        ("--data takes text, got 3.", True),
        ("--data.augmentations: 'mixup' takes true.", True),
        ("INTERNAL: x", False),
        ("RUN (=x) is missing.", True),
        ("--resume-weights-only needs --resume RUN.", True),
        ("--data is on a full disk.", False),
        ("x.png is damaged.", False),
    ],
)
def test_a_refused_value_is_a_usage_error(text, expected):
    assert is_about_option(text) == expected

import re

import numpy as np
import pytest

from nnx_alexnet.report.svg_chart import OTHER, TRAIN, VAL, drawable
from nnx_alexnet.report.svg_curves import Curve, Epochs, draw_curves, limits

ROWS = [
    {"step": 40, "epoch": 0, "train/loss": 2.0},
    {"step": 50, "epoch": 1, "train/loss_step": 1.5},
    {"step": 80, "epoch": 1, "train/loss": 1.0},
]


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_steps_become_epochs_and_epochs_steps():
    epochs = Epochs(ROWS)
    assert epochs.ends == [40, 80]
    assert epochs.at(np.array([0, 20, 40, 80, 120])).tolist() == [0, 0.5, 1, 2, 3]
    assert epochs.steps(np.array([0, 0.5, 2, 3])).tolist() == [0, 20, 80, 120]
    assert [epochs.text(step) for step in (40, 50, 81)] == ["epoch 1", "in epoch 2", "in epoch 3"]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 4, "epoch": 0, "val/loss": 1.0}],
        [{"step": 4, "epoch": "0", "train/loss": 1.0}],
        [{"step": 8, "epoch": 0, "train/loss": 1.0}, {"step": 4, "epoch": 1, "train/loss": 1.0}],
        [{"step": 0, "epoch": 0, "train/loss": 1.0}],
    ],
)
def test_epochs_that_are_not_recorded_are_unknown(rows):
    epochs = Epochs(rows)
    assert (epochs.ends, epochs.text(4)) == ([], "")


def test_values_are_shown_with_step_epoch_and_unit():
    curves = [
        Curve("train", {40: 0.5, 80: 0.75}, TRAIN),
        Curve("val", {80: 0.25}, VAL),
        Curve("train, log points", {50: 0.6}, TRAIN, is_faint=True),
    ]
    svg = draw_curves(curves, metric="accuracy", name="", figure="0", epochs=Epochs(ROWS))
    shown = re.findall(r"<text [^>]*>(?:<tspan[^>]*>■ </tspan>)?([^<]*)</text>", svg)
    tips = shown[shown.index("step 40, epoch 1") :]
    assert tips == ["step 40, epoch 1", "train 50.00%", "step 80, epoch 2", "train 75.00%",
                    "val 25.00%"]  # fmt: skip
    assert {"optimizer step", "epoch", "60%"} <= set(texts(svg))


def test_a_chart_by_epoch_has_no_axis_of_steps():
    curve = Curve("val", {0.5: 1.0, 1.0: 0.5}, VAL, best=1.0)
    svg = draw_curves([curve], metric="loss", name="", figure="0", by_epoch=True)
    assert "epoch" in texts(svg)
    assert "optimizer step" not in texts(svg)
    assert "epoch 0.5" in svg


def test_an_axis_from_zero_has_a_tick_at_zero():
    curves = [Curve("lr", {1: 1000.0, 2: 2000.0}, OTHER)]
    assert "0" not in texts(draw_curves(curves, metric="lr", name="", figure="0"))
    from_zero = texts(draw_curves(curves, metric="lr", name="", figure="0", from_zero=True))
    assert {"0", "1,000", "2,000"} <= set(from_zero)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ([39.0, 39.1], {}),
        ([39.0, 39.1], {"from_zero": True}),
        ([0.0, 2.0], {}),
        ([0.0, 0.0], {"from_zero": True}),
        ([-3.0, -1.0], {"from_zero": True}),
        ([0.0, 1.0], {"top": 1.0}),
        ([1.0, 1.0], {"top": 1.0}),
        ([1e308, -1e308], {}),
    ],
)
def test_no_line_is_cut_at_the_edge_of_the_axis(values, options):
    low, high = limits(values, **options)
    span = high - low
    assert min(drawable(value) for value in values) - low >= 0.015 * span
    assert high - max(drawable(value) for value in values) >= 0.015 * span
    if options.get("from_zero") and min(values) >= 0:
        assert -0.05 * span <= low < 0


def test_a_curve_that_hardly_changes_fills_its_chart():
    low, high = limits([39.0, 39.1])
    assert high - low < 1.5 * (39.1 - 39.0)


def test_ticks_that_differ_little_have_different_texts():
    curves = [Curve("norm", {1: 144.001, 2: 144.009}, OTHER)]
    found = texts(draw_curves(curves, metric="train/parameter_norm", name="", figure="0"))
    ticks = [text for text in found if text.startswith("144.")]
    assert len(ticks) >= 4
    assert len({*ticks}) == len(ticks)
    assert "144.004" in ticks

import numpy as np
import pytest

from nnx_alexnet.report.page_header import best_metric, end_reason, header, period, tiles
from nnx_alexnet.report.scores import score

RUN = {"started": None, "ended": None, "error": None, "stop_reason": None}


@pytest.mark.parametrize(
    ("times", "text"),
    [
        ((None, None), "The start time is unknown"),
        ((None, "2026-11-25T11:02:03+0000"), "The start time is unknown"),
        (("2026-11-25T10:00:00+0000", None), "Started 25 November 2026, 10:00"),
        (
            ("2026-11-25T10:00:00+0000", "2026-11-25T11:02:03+0000"),
            "Started 25 November 2026, 10:00, ended 11:02",
        ),
        (
            ("2026-11-25T10:00:00+0000", "2026-11-26T01:00:00+0000"),
            "Started 25 November 2026, 10:00, ended 26 November 2026, 01:00",
        ),
    ],
)
def test_the_period_has_the_date_of_the_end_if_it_is_another_day(times, text):
    started, ended = times
    assert period({**RUN, "started": started, "ended": ended}) == text


def test_the_header_shows_title_status_and_tags():
    run = {**RUN, "status": "failed", "steps": None, "duration": None, "tags": "a, <b>"}
    html = header("x<y", run, [], {})
    assert '<h1>x&lt;y</h1><span class="status failed">failed</span>' in html
    assert "<p>The start time is unknown; tags: a, &lt;b&gt;</p>" in html
    assert "tags" not in header("x", {**run, "tags": None, "status": None}, [], {})


def test_an_error_takes_precedence_over_the_reason_of_a_stop():
    assert end_reason(RUN) == ""
    stopped = {**RUN, "stop_reason": "no <progress>"}
    assert end_reason(stopped) == '<p class="reason">Stopped: no &lt;progress&gt;</p>'
    failed = {**stopped, "error": "ValueError"}
    assert end_reason(failed) == '<p class="reason">Ended by an error: ValueError</p>'


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], None),
        ([{"step": 4, "train/loss": 2.0}, {"step": 8, "train/loss": 1.0}], ("train/loss", 8, 1.0)),
        (
            [{"step": 4, "val/error": 2.0}, {"step": 8, "val/error": 3.0, "train/loss": 1.0}],
            ("val/error", 8, 3.0),  # the newest: it is unknown which value is better
        ),
        (
            [{"step": 4, "val/loss": 0.5, "val/accuracy": 0.75},
             {"step": 8, "val/loss": 0.25, "val/accuracy": 0.5}],
            ("val/accuracy", 4, 0.75),
        ),
        (
            [{"step": 4, "val/b/loss": 0.5, "val/b/f1": 0.1, "val/b/accuracy": 0.75,
              "val/a/loss": 0.25, "val/a/accuracy": 1.0}],
            ("val/b/accuracy", 4, 0.75),  # of the first set
        ),
    ],
)  # fmt: skip
def test_the_best_metric_is_the_accuracy_or_else_a_loss(rows, expected):
    assert best_metric(rows) == expected


def test_the_tiles_show_the_main_numbers():
    run = {**RUN, "steps": 1200, "epochs": 3, "duration": 754.0, "test/loss": 0.5,
           "test/accuracy": 0.875}  # fmt: skip
    rows = [
        {"step": step, "perf/images_per_second": speed, "val/accuracy": 0.75}
        for step, speed in [(400, 100.0), (800, 300.0), (1200, 200.0)]
    ]
    assert tiles(run, rows, {"before": [{}]}) == (
        "<div><dt>test/accuracy</dt><dd>87.50%</dd><dd></dd></div>"
        "<div><dt>Best val/accuracy</dt><dd>75.00%</dd><dd>at step 400</dd></div>"
        "<div><dt>Steps</dt><dd>1,200</dd><dd>3 epochs</dd></div>"
        "<div><dt>Duration</dt><dd>12m34s</dd><dd>over 2 starts</dd></div>"
        "<div><dt>Examples per second</dt><dd>200</dd><dd>median</dd></div>"
    )


def test_the_measured_accuracy_replaces_that_of_the_log():
    run = {**RUN, "steps": None, "duration": None, "test/accuracy": 0.875}
    measured = {"test": score(np.array([0, 1, 1, 1]), np.eye(2)[[0, 0, 1, 1]])}
    html = tiles(run, [], {}, measured)
    assert "<dt>Test accuracy</dt><dd>75.00%</dd><dd>of 4 examples</dd>" in html
    assert "87.50%" not in html

import matplotlib
import matplotlib.pyplot as plt
import pytest

from nnx_alexnet.training.history import History

ROWS = [
    {"epoch": 0, "step": 4, "train/loss": 1.5, "lr": 0.1, "perf/mfu": 0.5},
    {"epoch": 1, "step": 8, "train/loss": 0.75, "val/loss": 0.5, "lr": 0.2, "val/top_$5$": 0.9},
]


@pytest.fixture(autouse=True)
def _figures():
    matplotlib.use("agg")
    yield
    plt.close("all")


def lines(chart):
    return {line.get_label(): line.get_xydata().tolist() for line in chart.lines}


def test_training_and_validation_share_a_chart_per_metric():
    charts = History(ROWS).plot()
    assert [chart.get_title(loc="left") for chart in charts] == ["loss", "lr", "top_$5$"]
    assert lines(charts[0]) == {"train": [[4, 1.5], [8, 0.75]], "val": [[8, 0.5]]}
    assert [*lines(charts[1]).values()] == [[[4, 0.1], [8, 0.2]]]
    assert charts[0].get_legend() is not None
    assert charts[1].get_legend() is None
    assert len(charts[0].figure.axes) == 3
    charts[0].figure.canvas.draw()  # the name is not a formula


def test_metrics_can_be_chosen():
    (chart,) = History(ROWS).plot("perf/mfu")
    assert [*lines(chart).values()] == [[[4, 0.5]]]


def test_a_split_has_the_same_color_in_each_chart():
    charts = History(ROWS).plot("loss", "top_$5$")
    colors = [{line.get_label(): line.get_color() for line in chart.lines} for chart in charts]
    assert colors[0]["val"] == colors[1]["val"] != colors[0]["train"]


@pytest.mark.parametrize("rows", [[], [{"epoch": 0, "step": 4}]])
def test_a_history_without_metrics_is_refused(rows):
    with pytest.raises(ValueError, match="no metrics to plot: no epoch has ended"):
        History(rows).plot()


def test_an_unknown_metric_is_refused_before_anything_is_drawn():
    with pytest.raises(ValueError, match=r"`metrics` \(='los'\) is unknown; did you mean 'loss'"):
        History(ROWS).plot("los")
    assert plt.get_fignums() == []


def test_validation_sets_share_a_chart_and_classes_are_drawn_on_request():
    row = {"step": 4, "train/loss": 3.0, "train/f1": 0.5, "train/f1/cat": 0.25, "lr": 0.1,
           "val/a/loss": 1.0, "val/b/loss": 2.0, "val/a/f1": 0.5, "val/a/f1/cat": 0.75}  # fmt: skip
    charts = History([row]).plot()
    assert [chart.get_title(loc="left") for chart in charts] == ["loss", "f1", "lr"]
    assert lines(charts[0]) == {"train": [[4, 3]], "val/a": [[4, 1]], "val/b": [[4, 2]]}
    assert len({line.get_color() for line in charts[0].lines}) == 3
    (chart,) = History([row]).plot("f1/cat")
    assert lines(chart) == {"train": [[4, 0.25]], "val/a": [[4, 0.75]]}

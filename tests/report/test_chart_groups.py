from nnx_alexnet.report.chart_groups import Chart, chart_groups


def titles(counts):
    found = chart_groups(counts).groups
    return {group: [chart.title for chart in charts] for group, charts in found.items()}


def test_metrics_are_grouped_and_own_ones_by_their_first_part():
    names = ["perf/mfu", "lr/head", "temperature", "my_loss/a_b", "val/f1", "train/loss_step",
             "my_loss/c", "grad_norm", "train/grad_norm", "test/loss"]  # fmt: skip
    assert titles(dict.fromkeys(names, 2)) == {
        "Training and validation": ["loss", "f1", "grad norm"],
        "My loss": ["my loss a b", "my loss c"],
        "Other metrics": ["temperature"],
        "Optimization": ["learning rate, head", "grad norm"],
        "Performance": ["model FLOPs utilization"],
    }


def test_rates_have_an_axis_from_zero_and_norms_do_not():
    found = chart_groups({"lr": 2, "norm/parameters": 2}).groups
    assert found == {
        "Optimization": [
            Chart("learning rate", "lr", from_zero=True),
            Chart("norm of the parameters", "norm/parameters"),
        ]
    }


def test_own_metrics_with_one_value_have_no_chart():
    found = chart_groups({"once": 1, "never": 0, "val/loss": 1, "val/nan": 0})
    assert found.single == ["once"]
    assert [chart.metric for charts in found.groups.values() for chart in charts] == ["loss"]


def test_too_many_metrics_are_left_out_and_counted():
    found = chart_groups({f"a/{k}": 2 for k in range(30)} | {f"val/{k}": 2 for k in range(25)})
    assert [len(charts) for charts in found.groups.values()] == [24, 24]
    assert found.num_left_out == 6 + 1

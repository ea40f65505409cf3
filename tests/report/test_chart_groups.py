from nnx_alexnet.report.chart_groups import Chart, chart_groups


def titles(counts):
    found = chart_groups(counts).groups
    return {group: [chart.title for chart in charts] for group, charts in found.items()}


def test_metrics_are_grouped_and_own_ones_by_their_first_part():
    names = ["perf/mfu", "lr/head", "temperature", "my_loss/a_b", "val/f1", "train/loss_step",
             "my_loss/c", "grad_norm", "train/grad_norm", "test/loss"]  # fmt: skip
    assert titles(dict.fromkeys(names, 2)) == {
        "Training and validation": ["loss", "F1", "grad norm"],
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


def test_validation_sets_share_a_chart_with_training():
    names = ["train/loss", "val/a/loss", "val/b/loss", "val/gap"]
    found = chart_groups({**dict.fromkeys(names, 2), "val/a/gap": 0, "val/c/loss": 0})
    assert found.groups["Training and validation"] == [
        Chart("loss", "loss", ("val/a", "val/b", "train")),
        Chart("gap", "gap", ("val", "train")),
    ]


def test_the_classes_of_a_metric_share_a_chart_of_one_split():
    names = [
        f"{split}/f1{end}" for split in ("train", "val/a", "val/b") for end in ("", "/0", "/1")
    ]
    names += ["val/a/loss", "val/b/loss", "train/recall", "train/recall/cat"]
    names += ["val/a/precision", *(f"val/a/precision/{k}" for k in range(11))]
    found = chart_groups(dict.fromkeys(names, 2))
    assert titles(dict.fromkeys(names, 2))["Training and validation"] == [
        "loss", "F1", "recall", "precision",
    ]  # fmt: skip
    assert found.groups["Classes"] == [
        Chart("F1 per class", "f1", ("val/a",), classes=("0", "1"), hint="val/a"),
        Chart(
            "precision per class", "precision", ("val/a",),
            classes=tuple(map(str, range(11))), hint="val/a, the 10 lowest",
        ),
        Chart("recall per class", "recall", ("train",), classes=("cat",), hint="train"),
    ]  # fmt: skip
    assert found.num_left_out == 0

"""The order of TensorBoard's cards, which are sorted by tag."""

from nnx_alexnet.dashboard.tags import histogram_tag, image_tag, scalar_tag


def test_losses_and_accuracies_are_first_and_histograms_last():
    names = [
        "epoch",
        "f1",
        "lr",
        "perf/mfu",
        "test/loss",
        "train/loss",
        "val/loss",
        "val/zeta",
        "val/f1/cat",
    ]
    tags = [scalar_tag(name) for name in names]
    tags += [image_tag("model/filters"), image_tag("train/images"), histogram_tag("parameters/a")]
    assert sorted(tags) == [
        "train/loss", "val/loss", "val/zeta", "x_epoch", "x_f1", "x_lr", "x_test/loss",
        "x_val_classes/f1/cat", "y_train/images", "z_model/filters", "z_parameters/a",
        "z_perf/mfu",
    ]  # fmt: skip


def test_metrics_of_single_classes_have_groups_of_their_own():
    names = ["train/f1/0", "val/recall/a/b", "val/night/precision/cat", "val/f1", "val/night/f1"]
    assert [scalar_tag(name) for name in [*names, "val/f1/loss"]] == [
        "x_train_classes/f1/0", "x_val_classes/recall/a/b", "x_val_classes/night/precision/cat",
        "val/f1", "val/night/f1", "val/f1/loss",
    ]  # fmt: skip

"""The order of TensorBoard's cards, which are sorted by tag."""

from nnx_alexnet.dashboard.tags import histogram_tag, image_tag, scalar_tag


def test_losses_and_accuracies_are_first_and_histograms_last():
    names = ["epoch", "f1", "lr", "perf/mfu", "test/loss", "train/loss", "val/loss", "val/zeta"]
    tags = [scalar_tag(name) for name in names]
    tags += [image_tag("model/filters"), image_tag("train/images"), histogram_tag("parameters/a")]
    assert sorted(tags) == [
        "train/loss", "val/loss", "val/zeta", "x_epoch", "x_f1", "x_lr", "x_test/loss",
        "y_train/images", "z_model/filters", "z_parameters/a", "z_perf/mfu",
    ]  # fmt: skip

"""The columns of the HParams tab."""

from nnx_alexnet.dashboard.hparams import FIRST_HPARAMS, hyperparameters, metric_columns


def test_hyperparameters_have_the_names_of_the_command_line():
    config = {
        "seed": 0,
        "data": {"name": "digits", "batch_size": 64, "download": False, "std": [1.0], "more": {}},
        "model": {"class_path": "nnx_alexnet.AlexNet", "init_args": {"dropout_rate": 0.5}},
        "optimizer": {"name": "adam", "learning_rate": 0.1, "schedule": "cosine", "clip": None},
        "trainer": {"progress_bar": True, "max_epochs": 3, "tags": ["a", "b"]},
    }
    found = hyperparameters(config)
    assert found == {
        "seed": 0, "data.name": "digits", "data.batch_size": 64, "model": "AlexNet",
        "model.dropout_rate": 0.5, "optimizer.name": "adam", "optimizer.learning_rate": 0.1,
        "optimizer.schedule": "cosine", "trainer.max_epochs": 3, "trainer.tags": "a, b",
    }  # fmt: skip
    assert found.keys() >= {*FIRST_HPARAMS}


def test_validation_metrics_are_first_and_values_within_epochs_left_out():
    names = ["epoch", "gap", "lr", "perf/data_wait", "perf/images_per_second", "test/loss"]
    names += ["train/accuracy", "train/loss", "train/loss_step", "val/accuracy", "val/loss"]
    assert metric_columns(names) == [
        "val/accuracy", "val/loss", "test/loss", "train/accuracy", "train/loss", "epoch", "gap",
        "perf/images_per_second", "perf/data_wait", "lr",
    ]  # fmt: skip


def test_columns_begin_with_accuracy_and_loss_and_have_no_single_classes():
    names = ["val/auroc", "val/f1", "val/f1/cat", "val/loss", "val/accuracy", "val/f1/dog"]
    assert metric_columns(iter(names)) == ["val/accuracy", "val/loss", "val/auroc", "val/f1"]

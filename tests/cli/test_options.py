"""The options of `fit`."""

from nnx_alexnet.cli.options import fit_parser


def test_the_options_of_fit_are_these():
    """Users write scripts against these names."""
    names = set(fit_parser().get_defaults().keys())
    assert names == {
        "config", "seed", "resume", "resume_accept", "resume_weights_only",
        "distributed.coordinator", "distributed.num_processes", "distributed.process_id",
        "distributed.timeout", "distributed.heartbeat_timeout",
        "data.name", "data.image_size", "data.batch_size", "data.root", "data.seed",
        "data.augment", "data.augmentations", "data.num_workers", "data.download", "data.drop_last",
        "data.on_bad_sample", "data.keep_on_device", "data.columns", "data.rename",
        "data.pad_to", "data.pad_values", "data.cache",
        "model.class_path", "model.init_args.dropout_rate", "model.init_args.dtype",
        "model.init_args.param_dtype", "model.init_args.remat",
        "task.class_path", "task.init_args.label_smoothing", "task.init_args.class_weights",
        "task.init_args.focal_gamma", "task.init_args.metrics",
        "optimizer.name", "optimizer.learning_rate", "optimizer.schedule",
        "optimizer.warmup_steps", "optimizer.weight_decay", "optimizer.clip_norm",
        "optimizer.num_steps", "optimizer.drop_every", "optimizer.drop_factor",
        "optimizer.steps_per_epoch", "optimizer.momentum", "optimizer.nesterov",
        "optimizer.decay_biases", "optimizer.rate_factors",
        "trainer.callbacks", "trainer.max_epochs", "trainer.max_steps", "trainer.log_dir",
        "trainer.name", "trainer.tags", "trainer.devices", "trainer.shard_state",
        "trainer.log_every_n_steps", "trainer.validate_every_n_epochs",
        "trainer.validate_every_n_steps", "trainer.num_micro_batches", "trainer.trainable",
        "trainer.limit_batches", "trainer.fast_dev_run", "trainer.overfit_batches",
        "trainer.steps_per_execution", "trainer.check_finite", "trainer.progress_bar",
    }  # fmt: skip


def test_the_defaults_of_fit_are_the_recipe_for_the_digits():
    config = fit_parser().parse_args([])
    assert (config.data.name, config.data.batch_size) == ("digits", 32)
    assert config.optimizer.schedule == "cosine"
    assert config.task.init_args.label_smoothing == 0.1
    assert config.model.class_path == "nnx_alexnet.AlexNet"

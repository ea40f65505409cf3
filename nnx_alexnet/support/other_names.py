"""Names that other trainers use for the options of this one."""

from __future__ import annotations

# By option of the command line. An option is listed by its last part.
NAMES_ELSEWHERE = {
    "data": "dataset data_name",
    "data.batch_size": "batch bs b batchsize train_batch_size per_device_train_batch_size",
    "data.image_size": "imgsz img_size input_size resolution crop_size size",
    "data.root": "data_dir datadir data_path data_root",
    "data.num_workers": "workers j num_proc dataloader_num_workers",
    "data.augmentations": "mixup cutmix mixup_alpha cutmix_alpha random_erasing color_jitter",
    "data.augment": "augmentation aug",
    "model": "arch architecture net network backbone",
    "model.dropout_rate": "dropout drop drop_rate p",
    "model.dtype": "precision amp fp16 bf16 half mixed_precision",
    "model.remat": "gradient_checkpointing grad_checkpointing checkpoint_activations",
    "optimizer": "opt optim",
    "optimizer.learning_rate": "lr lr0 base_lr max_lr",
    "optimizer.schedule": "scheduler lr_scheduler sched lr_schedule lr_scheduler_type",
    "optimizer.warmup_steps": "warmup warmup_epochs warmup_ratio",
    "optimizer.weight_decay": "wd decay l2",
    "optimizer.clip_norm": "clip grad_clip clip_grad clipnorm gradient_clip_val max_grad_norm "
    "gradient_clip_algorithm",
    "optimizer.rate_factors": "layer_decay llrd lr_mult layerwise_lr_decay",
    "task": "loss loss_fn loss_function criterion objective",
    "task.metrics": "compute_metrics eval_metrics",
    "task.label_smoothing": "smoothing label_smooth",
    "task.class_weights": "class_weight pos_weight",
    "trainer.max_epochs": "epochs epoch num_epochs n_epochs num_train_epochs ep e",
    "trainer.max_steps": "steps iterations iters num_train_steps total_steps",
    "trainer.name": "name run_name experiment experiment_name exp project project_name",
    "trainer.log_dir": "logdir logs log output output_dir outdir out_dir save_dir "
    "default_root_dir results_dir",
    "trainer.devices": "mesh device gpus gpu num_gpus num_devices ngpus accelerator",
    "trainer.log_every_n_steps": "log_every logging_steps log_interval print_freq log_freq",
    "trainer.validate_every_n_epochs": "check_val_every_n_epoch eval_every val_interval "
    "validation_freq",
    "trainer.validate_every_n_steps": "val_check_interval eval_steps evaluation_steps",
    "trainer.limit_batches": "limit_train_batches limit_val_batches limit_test_batches "
    "limit_eval_batches steps_per_epoch validation_steps",
    "trainer.num_micro_batches": "accumulate_grad_batches gradient_accumulation_steps "
    "accumulation_steps grad_accum grad_accum_steps accumulate",
    "trainer.check_finite": "detect_anomaly terminate_on_nan",
    "trainer.trainable": "freeze freeze_layers frozen",
    "trainer.progress_bar": "progress verbose quiet enable_progress_bar",
    "trainer.callbacks+=EarlyStopping": "patience early_stopping early_stop",
    "trainer.callbacks+=EMA": "ema model_ema ema_decay use_ema use_ema_weights",
    "trainer.callbacks+=SWA": "swa stochastic_weight_avg",
    "trainer.callbacks+=Timer": "max_time time_limit",
    "trainer.callbacks+=ValidateAtStart": "num_sanity_val_steps eval_on_start",
    "trainer.callbacks+=ReduceLROnPlateau": "plateau reduce_lr_on_plateau",
    "trainer.callbacks+=ModelCheckpoint": "enable_checkpointing save_top_k save_every save_steps",
    "trainer.callbacks": "callback",
    "trainer.callbacks+=Profiler": "profile profiler",
    "resume": "ckpt_path ckpt checkpoint resume_from resume_from_checkpoint continue last",
    "resume-weights-only": "weights pretrained finetune init_from load",
    "seed": "random_seed random_state manual_seed",
    "config": "cfg conf config_file yaml",
    "top_k": "topk k top",
    "output": "out o output_file save file",
    "format": "fmt f output_format",
    "checkpoint": "ckpt ckpt_path step weights",
    "json": "as_json",
    "sort": "sort_by order order_by",
}

# These exist only in Python.
ONLY_IN_PYTHON = {
    "nnx_alexnet.tuning.find_learning_rate": "auto_lr_find lr_find lr_finder find_lr "
    "find_learning_rate",
    "nnx_alexnet.tuning.find_batch_size": "auto_scale_batch_size auto_batch_size find_batch_size",
    "DataModule.folds": "folds kfold k_fold num_folds cross_validation",
}

# Differences from the other trainers.
NOTES = {
    "trainer.num_micro_batches": "It divides each batch into parts, so the batch size is the whole "
    "of one update.",
    "trainer.limit_batches": "It limits all splits, or those that a dict names, such as "
    '{"train": 100}.',
}


def find_names(name: str, table: dict[str, str]) -> list[str]:
    """Returns the entries of a table that have a name of other trainers.

    Args:
        name: the last part of the name that was given.
        table: `NAMES_ELSEWHERE` or `ONLY_IN_PYTHON`.

    Example:
        >>> from nnx_alexnet.support.other_names import NAMES_ELSEWHERE, find_names
        >>> find_names("gradient_clip_val", NAMES_ELSEWHERE)
        ['optimizer.clip_norm']
    """
    return [found for found, others in table.items() if name in others.split()]

"""Suggests the option that a user meant: by the names of other tools, and by similarity."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

# Names that other trainers use. An option is listed by its last part.
_ELSEWHERE = {
    "data": "dataset data_name",
    "data.batch_size": "batch bs b batchsize train_batch_size per_device_train_batch_size",
    "data.image_size": "imgsz img_size input_size resolution crop_size size",
    "data.root": "data_dir datadir data_path data_root",
    "data.num_workers": "workers j num_proc dataloader_num_workers",
    "data.augment": "augmentation aug",
    "model": "arch architecture net network backbone",
    "model.dropout_rate": "dropout drop drop_rate p",
    "model.dtype": "precision amp fp16 bf16 half mixed_precision",
    "optimizer": "opt optim",
    "optimizer.learning_rate": "lr lr0 base_lr max_lr",
    "optimizer.schedule": "scheduler lr_scheduler sched lr_schedule lr_scheduler_type",
    "optimizer.warmup_steps": "warmup warmup_epochs warmup_ratio",
    "optimizer.weight_decay": "wd decay l2",
    "optimizer.clip_norm": "clip grad_clip clip_grad clipnorm gradient_clip_val max_grad_norm",
    "task.label_smoothing": "smoothing label_smooth",
    "task.class_weights": "class_weight",
    "trainer.max_epochs": "epochs epoch num_epochs n_epochs num_train_epochs ep e",
    "trainer.max_steps": "steps iterations iters num_train_steps total_steps",
    "trainer.name": "name run_name experiment experiment_name exp project project_name",
    "trainer.log_dir": "logdir logs log output output_dir outdir out_dir save_dir "
    "default_root_dir results_dir",
    "trainer.devices": "mesh device gpus gpu num_gpus num_devices ngpus accelerator",
    "trainer.log_every_n_steps": "log_every logging_steps log_interval print_freq log_freq",
    "trainer.validate_every_n_epochs": "check_val_every_n_epoch eval_every val_interval",
    "trainer.progress_bar": "progress verbose quiet enable_progress_bar",
    "trainer.callbacks+=EarlyStopping": "patience early_stopping early_stop",
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


def suggest(got: str, known: Iterable[str]) -> list[str]:
    """Returns the options that may have been meant, the most likely first; at most three.

    Args:
        got: the name that was given, without dashes.
        known: the names of all options.

    Example:
        >>> from nnx_alexnet.cli.suggestions import suggest
        >>> known = ["data.batch_size", "optimizer.learning_rate", "data.name", "trainer.name"]
        >>> suggest("lr", known), suggest("data.batchsize", known), suggest("name", known)
        (['optimizer.learning_rate'], ['data.batch_size'], ['trainer.name'])
        >>> suggest("xyz", known)
        []
    """
    known = list(dict.fromkeys(known))
    got = got.replace("-", "_").removeprefix("no_")
    last = _last(got)
    same_part = [name for name in known if _last(name) == last]
    elsewhere = [
        name
        for name, words in _ELSEWHERE.items()
        if last in words.split() and name.partition("+=")[0] in known
    ]
    group = got.rpartition(".")[0]
    same_part = [] if elsewhere and "." not in got else same_part
    found = sorted([*elsewhere, *same_part], key=lambda name: name.rpartition(".")[0] != group)
    if group and not (found and found[0].startswith(f"{group}.")):
        found = [*_near(last, [name for name in known if name.startswith(f"{group}.")]), *found]
    # In another group, only a misspelling of the same name is meant.
    found = found or _near(last, known, cutoff=0.85 if group else 0.65)
    return list(dict.fromkeys(found))[:3]


def _near(last: str, known: Sequence[str], cutoff: float = 0.65) -> list[str]:
    """Returns the option whose last part is the nearest."""
    by_part = {_last(name): name for name in reversed(known)}
    return [by_part[part] for part in difflib.get_close_matches(last, by_part, n=1, cutoff=cutoff)]


def _last(name: str) -> str:
    return name.rpartition(".")[2].lower()


def hint(names: Sequence[str], *, dashes: str = "--") -> str:
    """Returns the sentence that suggests names, with a leading space, or nothing.

    Example:
        >>> from nnx_alexnet.cli.suggestions import hint
        >>> hint(["trainer.name", "data.name"]), hint([])
        (' Did you mean --trainer.name or --data.name?', '')
    """
    return f" Did you mean {' or '.join(dashes + name for name in names)}?" if names else ""

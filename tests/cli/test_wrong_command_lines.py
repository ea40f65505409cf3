"""Wrong command lines, and the message that each of them produces."""

import pytest

from nnx_alexnet.cli import main

# The arguments after `nnx-alexnet`, and what is printed after `error: `.
WRONG = {
    "fit --batch_size 64": "unknown option --batch_size. Did you mean --data.batch_size?",
    "fit --max_epochs 3": "unknown option --max_epochs. Did you mean --trainer.max_epochs?",
    "fit --epochs 3": "unknown option --epochs. Did you mean --trainer.max_epochs?",
    "fit --lr 0.1": "unknown option --lr. Did you mean --optimizer.learning_rate?",
    "fit --name mine": "unknown option --name. Did you mean --trainer.name?",
    "fit --model.dropout 0.1": "unknown option --model.dropout. Did you mean "
    "--model.dropout_rate?",
    "fit --trainer.max-epoch 3": "unknown option --trainer.max-epoch. Did you mean "
    "--trainer.max_epochs?",
    "fit --gpus 2": "unknown option --gpus. Did you mean --trainer.devices?",
    "fit --patience 5": "unknown option --patience. Did you mean "
    "--trainer.callbacks+=EarlyStopping?",
    "fit --ema": "unknown option --ema. Did you mean --trainer.callbacks+=EMA?",
    "fit --trainer.accumulate_grad_batches 4": "unknown option "
    "--trainer.accumulate_grad_batches. Did you mean --trainer.num_micro_batches? It divides each "
    "batch into parts, so the batch size is the whole of one update.",
    "fit --trainer.auto_lr_find true": "unknown option --trainer.auto_lr_find. Only Python has "
    "it: nnx_alexnet.tuning.find_learning_rate.",
    "fit --trainer.max_epochs ten": "--trainer.max_epochs takes a positive integer or null, got "
    "'ten'.",
    "fit --trainer.max_epochs 0": "--trainer.max_epochs takes a positive integer or null, got '0'.",
    "fit --data.batch_size 6.5": "--data.batch_size takes a positive integer, got '6.5'.",
    "fit --data.augment maybe": "--data.augment takes true or false, got 'maybe'.",
    "fit --optimizer.schedule cosin": "--optimizer.schedule takes constant, cosine, linear, "
    "one_cycle or step, got 'cosin'. Did you mean cosine?",
    "fit --optimizer.learning_rate -1": "--optimizer.learning_rate (=-1.0) must be a number "
    "greater than 0.",
    "fit --data fashon_mnist": "--data (='fashon_mnist') is unknown; did you mean 'fashion_mnist'?",
    "fit --model AlexNt": "--model takes the import path of a class, such as my_package.MyModel, "
    "got 'AlexNt'. Did you mean AlexNet?",
    "fit --trainer.callbacks+=EarlyStoping": "--trainer.callbacks takes the import path of a "
    "class, such as my_package.MyCallback, got 'EarlyStoping'. Did you mean EarlyStopping?",
    "fit --resume": "--resume requires a value.",
    "fit mnist": "unexpected argument 'mnist'.",
    "train": "unknown command 'train'. Did you mean fit?",
    "predict RUN a.png --topk 3": "unknown option --topk. Did you mean --top_k?",
    "predict RUN a.png --format jsn": "--format takes text, json or csv, got 'jsn'. Did you mean "
    "json?",
    "test nowhere": "RUN (='nowhere') must be the folder of a run",
    "test --data.batch_size 8": "unknown option --data.batch_size. It is an option of fit and "
    "cache.",
    "runs --sort_by val/loss": "unknown option --sort_by. Did you mean --sort?",
    "cache --lst": "unknown option --lst. Did you mean --list?",
    "fit --model.num_classes 3": "unknown option --model.num_classes.\n",
    "fit --config nope.yaml": "--config (=nope.yaml) cannot be read: No such file",
    "fit --config {\"trainer\":3}": "--config (={\"trainer\":3}): trainer must hold options",
    "fit --data=": "--data (='') must be the name of a dataset, or an import path.",
    "fit --data os.system": "--data (=os.system) is <built-in function system>; it must be your "
    "own function that returns a DataModule, a subclass of DataModule, or an instance of it.",
    "fit --data os.path.join": "--data (=os.path.join) is <function join at",
    "fit --resume nope": "--resume (='nope') must be \"auto\", \"never\", or the folder of a run "
    "with its `checkpoints`, such as logs/alexnet/version_0. To start a new run from the weights "
    "of a checkpoint, add --resume-weights-only.",
    "cache --remove nope": "--remove (=nope): ",
    "report": "RUN (=null) must be the folder of a run: there is no run in ./logs.",
    "verify": "RUN (=null) must be the folder of a run: there is no run in ./logs.",
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_line_is_refused_with_2_and_a_remedy(line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(line.split())
    except SystemExit as stopped:
        code = stopped.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.partition("error: ")[2].startswith(WRONG[line])
    assert captured.out == ""
    assert not any(tmp_path.iterdir())

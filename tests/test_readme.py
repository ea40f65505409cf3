"""What the two READMEs show works as it is written there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from flax import nnx
from helpers import RecordingCallback, TinyNet, tiny_arrays

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.cli import main
from nnx_alexnet.cli.options import fit_parser

ROOT = Path(__file__).parents[1]


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / path).read_text(), re.M | re.S)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("max_epochs", "accuracy"), [(1, 0.3), pytest.param(6, 0.95, marks=pytest.mark.slow)]
)
def test_the_python_of_the_readme_trains_alexnet_on_the_digits(
    tmp_path, monkeypatch, max_epochs, accuracy
):
    monkeypatch.chdir(tmp_path)
    example, load, resume, autoencoder, two_devices, layer, join, _ = blocks("README.md", "python")
    names = {}
    assert "max_epochs=6," in example
    example = example.replace("max_epochs=6,", f"max_epochs={max_epochs},")
    exec(compile(example, "README.md", "exec"), names)
    assert names["trainer"].metrics["test/accuracy"] > accuracy
    assert [row["epoch"] for row in names["history"]] == list(range(len(names["history"])))
    probabilities = names["probabilities"]
    assert probabilities.shape == (360, 10)
    assert probabilities.dtype == np.float32
    exec(compile(load, "README.md", "exec"), names)
    best = max(row["val/accuracy"] for row in names["history"])
    assert names["about"]["metrics"]["val/accuracy"] == best
    exec(compile(resume, "README.md", "exec"), names)
    assert names["history"][-1]["val/accuracy"] == names["trainer"].metrics["val/accuracy"]
    exec(compile(autoencoder, "README.md", "exec"), names)
    assert names["reconstructions"].shape == (512, 8, 8, 1)
    exec(compile(two_devices, "README.md", "exec"), names)
    exec(compile(layer, "README.md", "exec"), names)
    assert names["layer"].kernel.get_metadata()["out_sharding"] == (None, "model")
    exec(compile(join, "README.md", "exec"), names)


def test_the_function_for_ray_is_python():
    *_, ray = blocks("README.md", "python")
    assert "JaxTrainer" in ray
    compile(ray, "README.md", "exec")


def test_the_job_for_kubernetes_starts_one_process_an_index():
    service, job = yaml.safe_load_all(blocks("README.md", "yaml")[0])
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    *shell, command = pod["containers"][0]["command"]
    assert shell == ["bash", "-c"]
    words = shlex.split(command.replace("$JOB_COMPLETION_INDEX", "1"))
    assert words[:3] == ["exec", "nnx-alexnet", "fit"]
    asked = fit_parser().parse_args(words[3:]).distributed
    assert asked.coordinator.startswith(f"{job['metadata']['name']}-0.{pod['subdomain']}:")
    assert asked.num_processes == spec["completions"] == spec["parallelism"]
    assert asked.process_id == 1


def test_the_options_that_the_readme_shows_exist():
    lines = [line for block in blocks("README.md", "bash") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines]
    fits = [words[2:] for words in commands if words[:2] == ["nnx-alexnet", "fit"]]
    shown = [words for words in fits if not {"my_package.MyModel", "run.yaml"} & set(words)]
    assert shown
    for words in shown:
        before_redirection = words[: words.index(">")] if ">" in words else words
        with pytest.raises(SystemExit) as stopped:
            main(["fit", *before_redirection, "--print_config"])
        assert stopped.value.code == 0, words


def test_the_callbacks_of_the_callbacks_readme_run():
    names = {}
    for block in blocks("callbacks/README.md", "python"):
        exec(compile(block, "callbacks/README.md", "exec"), names)
    model, split = TinyNet(4, rngs=nnx.Rngs(0)), tiny_arrays(num=64)
    trainer = Trainer(
        model, (split, split), callbacks=names["callbacks"], max_epochs=2, log_dir=None
    )
    history = trainer.fit()
    worst, _, stopping = names["callbacks"]
    assert worst.worst[0] == max(row["val/loss"] for row in history)
    gaps = [row["val/gap"] for row in history]
    assert gaps == [row["val/loss"] - row["train/loss"] for row in history]
    assert stopping.best == min(gaps)


def test_the_hooks_come_in_the_order_of_the_callbacks_readme(tmp_path):
    (timeline,) = blocks("callbacks/README.md", "text")
    documented = [line.split()[0] for line in timeline.splitlines()]
    recorder = RecordingCallback()
    model, split = TinyNet(4, rngs=nnx.Rngs(0)), tiny_arrays(num=16)
    data = DataModule(split, split, split, batch_size=16)
    trainer = Trainer(model, data, callbacks=[recorder], max_epochs=1, log_dir=None)
    trainer.fit()
    assert recorder.calls == documented


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_the_hooks_of_the_other_verbs_are_those_of_the_callbacks_readme(verb):
    rows = dict(
        re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "callbacks/README.md").read_text(), re.M)
    )
    hooks = re.findall(r"`(\w+)`", rows["validate"])
    kind = {"validate": "validation"}.get(verb, verb)
    documented = [hook.replace("validation", kind) for hook in hooks]
    if verb == "predict":
        documented.remove("on_log")
    recorder = RecordingCallback()
    split = tiny_arrays(num=16)
    data = DataModule(split, split, split, batch_size=16)
    model = TinyNet(4, rngs=nnx.Rngs(0))
    trainer = Trainer(model, data, callbacks=[recorder], log_dir=None, progress_bar=False)
    getattr(trainer, verb)()
    assert recorder.calls == documented

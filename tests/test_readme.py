"""The code, commands, links and tables of every README work as they are written there."""

import contextlib
import fnmatch
import re
import runpy
import shlex
import tomllib
from pathlib import Path
from unittest import SkipTest

import numpy as np
import pytest
import yaml
from flax import nnx
from helpers import RecordingCallback, TinyNet, tiny_arrays
from PIL import Image
from sybil import Document
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.cli import main
from nnx_alexnet.cli.options import fit_parser
from nnx_alexnet.cli.parser import parse
from nnx_alexnet.cli.words import complete, import_path_in
from nnx_alexnet.models import alexnet

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", *sorted((ROOT / "nnx_alexnet").glob("*/README.md"))]
PAGES = [*READMES, ROOT / ".github/CONTRIBUTING.md", *sorted((ROOT / "tests").rglob("*.md"))]


def named(path):
    return str(path.relative_to(ROOT))


def run_python(example):
    """Runs a block in the namespace of its file; one with a main guard runs as a script."""
    if '__name__ == "__main__"' not in example.parsed:
        PythonEvaluator()(example)
        return
    script = Path.cwd() / f"block_{example.line}.py"  # worker processes import it
    script.write_text(example.parsed)
    found = runpy.run_path(str(script), run_name="__main__")
    example.namespace.update({name: found[name] for name in found if not name.startswith("__")})


def parsed(path, *parsers, max_steps=None):
    text = path.read_text()
    if max_steps is not None:
        text = re.sub(r"max_epochs=\d+", f"max_steps={max_steps}", text)
        if path == READMES[0]:  # on the smallest images
            text = text.replace("image_size=96", "image_size=67")
            text = text.replace("nnx.Linear(4096,", f"nnx.Linear({alexnet._NUM_HIDDEN},")
    document = Document(text, str(path))
    for parser in parsers:
        for region in parser(document):
            document.add(region)
    return document


def python_of(path, *, max_steps=None):
    parsers = CodeBlockParser("python", run_python), SkipParser()
    return parsed(path, *parsers, max_steps=max_steps)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Works in a folder that holds photos/train/cat and photos/train/dog, 20 images each."""
    monkeypatch.chdir(tmp_path)
    for number in range(40):
        folder = tmp_path / "photos/train" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (80, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")


def blocks(path, language):
    """Returns the blocks of one language as text."""
    return [each.parsed for each in parsed(path, CodeBlockParser(language, lambda _: None))]


def table(path, heading):
    """Returns the cells of the rows of the table that has this header."""
    lines = path.read_text().splitlines()
    assert heading in lines, f"{named(path)} has no table {heading}"
    rows = []
    for line in lines[lines.index(heading) + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


# ---- Code ------------------------------------------------------------------------------------


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", READMES, ids=named)
@pytest.mark.usefixtures("photos")
def test_python_blocks_run(path, monkeypatch):
    if path == READMES[0]:  # its AlexNet is trained: a sixth of the numbers to update and write
        monkeypatch.setattr(alexnet, "_NUM_HIDDEN", 64)
    for example in python_of(path, max_steps=3):
        with contextlib.suppress(SkipTest):
            example.evaluate()


@pytest.mark.parametrize("path", READMES, ids=named)
def test_python_blocks_that_are_not_run_compile(path):
    for block in blocks(path, "python"):
        compile(block, named(path), "exec")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_first_example_learns_the_digits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = next(iter(python_of(ROOT / "README.md")))
    example.evaluate()
    found = example.namespace
    assert found["trainer"].metrics["test/accuracy"] > 0.9
    assert [row["epoch"] for row in found["history"]] == list(range(len(found["history"])))
    assert found["probabilities"].shape == (360, 10)
    assert found["probabilities"].dtype == np.float32


def test_the_example_callbacks_see_what_the_history_holds():
    document = python_of(ROOT / "nnx_alexnet/callbacks/README.md")
    for example in document:
        example.evaluate()
    callbacks = document.namespace["callbacks"]
    model, split = TinyNet(4, rngs=nnx.Rngs(0)), tiny_arrays(num=64)
    trainer = Trainer(model, (split, split), callbacks=callbacks, max_epochs=2, log_dir=None)
    history = trainer.fit()
    worst, _, stopping, _ = callbacks
    assert worst.worst[0] == max(row["val/loss"] for row in history)
    gaps = [row["val/gap"] for row in history]
    assert gaps == [row["val/loss"] - row["train/loss"] for row in history]
    assert stopping.best == min(gaps)


# ---- Commands --------------------------------------------------------------------------------


def commands(path):
    """Returns the words after `nnx-alexnet` of each command in a file's shell blocks."""
    text = "\n".join(blocks(path, "bash") + blocks(path, "sh"))
    for line in text.splitlines():
        for command in line.split("&&"):
            words = shlex.split(command, comments=True)
            if "nnx-alexnet" in words:
                yield words[words.index("nnx-alexnet") + 1 :]


@pytest.mark.parametrize("path", READMES, ids=named)
def test_commands_have_options_that_exist(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_package.py").write_text(
        "from flax import nnx\nfrom nnx_alexnet import Task\n"
        "class MyModel(nnx.Module):\n    def __init__(self, rngs): ...\n"
        "class MyTask(Task): ...\n"
        "def my_data(num: int = 64): ...\n"
    )
    for words in commands(path):
        if {"--help", "--print_config"} & set(words):
            end = words.index(">") if ">" in words else len(words)
            with pytest.raises(SystemExit) as stopped:
                main(words[:end])
            assert stopped.value.code == 0, words
            for file in words[end + 1 :]:
                Path(file).write_text(capsys.readouterr().out)
        else:
            parse(words)
            if words[0] == "fit":
                long = complete(words)
                fit_parser(import_path_in(long)).parse_args(long[1:])


def test_the_kubernetes_job_starts_one_process_per_index():
    (manifest,) = blocks(ROOT / "nnx_alexnet/devices/README.md", "yaml")
    service, job = yaml.safe_load_all(manifest)
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


# ---- Hooks -----------------------------------------------------------------------------------


def test_the_timeline_is_the_order_of_the_hooks():
    (timeline,) = blocks(ROOT / "nnx_alexnet/callbacks/README.md", "text")
    documented = [line.split()[0] for line in timeline.splitlines()]
    recorder = RecordingCallback()
    model, split = TinyNet(4, rngs=nnx.Rngs(0)), tiny_arrays(num=16)
    data = DataModule(split, split, split, batch_size=16)
    trainer = Trainer(model, data, callbacks=[recorder], max_epochs=1, log_dir=None)
    trainer.fit()
    assert recorder.calls == documented


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_the_hooks_of_the_other_stages_are_as_documented(stage):
    rows = dict(table(ROOT / "nnx_alexnet/callbacks/README.md", "| stage | hooks |"))
    hooks = re.findall(r"`(\w+)`", rows["`validate`"])
    kind = {"validate": "validation"}.get(stage, stage)
    documented = [hook.replace("validation", kind) for hook in hooks]
    if stage == "predict":
        documented.remove("on_log")
    recorder = RecordingCallback()
    split = tiny_arrays(num=16)
    data = DataModule(split, split, split, batch_size=16)
    model = TinyNet(4, rngs=nnx.Rngs(0))
    trainer = Trainer(model, data, callbacks=[recorder], log_dir=None, progress_bar=False)
    getattr(trainer, stage)()
    assert recorder.calls == documented


# ---- Tables and links ------------------------------------------------------------------------


def test_a_run_leaves_the_files_of_the_table(tmp_path):
    rows = table(ROOT / "nnx_alexnet/dashboard/README.md", "| file | contains |")
    documented = [name.strip("`").replace("<step>/", "*") for name, _ in rows]
    model, split = TinyNet(4, rngs=nnx.Rngs(0)), tiny_arrays(num=64)
    trainer = Trainer(model, (split, split), max_epochs=2, log_dir=tmp_path)
    trainer.fit()
    assert main(["report", str(trainer.run_dir)]) == 0
    files = [
        path
        for path in trainer.run_dir.iterdir()
        if path.name in documented or not path.name.startswith(".")
    ]
    checkpoints = [path for path in files if path.name == "checkpoints"]
    files += [step for folder in checkpoints for step in folder.iterdir()]
    names = {str(path.relative_to(trainer.run_dir)) for path in files} - {"checkpoints"}
    for pattern in documented:
        assert fnmatch.filter(names, pattern), pattern
    assert [each for each in names if not any(fnmatch.fnmatch(each, p) for p in documented)] == []


def test_the_metrics_of_a_fit_are_documented():
    text = (ROOT / "nnx_alexnet/dashboard/README.md").read_text()
    model, split = TinyNet(4, rngs=nnx.Rngs(0)), tiny_arrays(num=64)
    trainer = Trainer(model, (split, split), log_dir=None)
    names = {name for name in trainer.metric_names if name.startswith("perf/")}
    assert len(names) >= 4
    assert [name for name in names if f"`{name}`" not in text] == []


def test_module_tables_list_every_module_of_their_package():
    pages = [path for path in READMES if "| module | contains |" in path.read_text()]
    assert len(pages) >= 8
    for path in pages:
        rows = table(path, "| module | contains |")
        listed = sorted(name for cell, _ in rows for name in re.findall(r"`(\w+)`", cell))
        modules = sorted(each.stem for each in path.parent.glob("*.py"))
        modules.remove("__init__")
        assert listed == modules, named(path)


def test_the_map_lists_the_packages_in_the_order_of_their_imports():
    rows = table(ROOT / "README.md", "| package | contains |")
    listed = re.findall(r"nnx_alexnet/(\w+)|`(callbacks)/`", " ".join(cell for cell, _ in rows))
    listed = [left or right for left, right in listed]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = [
        [name.strip() for name in layer.split("|")] for layer in contracts["contracts"][0]["layers"]
    ]
    expected = {name for layer in layers for name in layer} - {"__main__", "version"}
    assert set(listed) == expected
    level = {name: number for number, layer in enumerate(layers) for name in layer}
    assert [level[name] for name in listed] == sorted(level[name] for name in listed)


def anchors(path):
    """Returns the anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_links_and_scripts_exist(path):
    text = path.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.resolve().parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
    named_files = re.findall(r"\b(?:tests|nnx_alexnet|callbacks)/[\w/]+\.(?:py|md)\b", text)
    assert [name for name in named_files if not (ROOT / name).exists()] == []


def test_images_of_the_readmes_are_small():
    images = list((ROOT / "nnx_alexnet").glob("*/*.png"))
    assert images
    assert all(image.stat().st_size < 300_000 for image in images)

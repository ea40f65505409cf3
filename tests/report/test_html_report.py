"""The report of a run: its content, that it loads nothing, and how a browser shows it."""

import html
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from warnings import catch_warnings

import numpy as np
import pytest
from browser import console_errors, open_browser, save_screenshot
from flax import nnx
from helpers import TinyNet, tiny_arrays, write_run
from hypothesis import HealthCheck, given, settings
from record_strategies import ANY_ENVIRONMENTS, ANY_ROWS

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.checkpoints import choose_checkpoint
from nnx_alexnet.cli import main
from nnx_alexnet.dashboard.event_writer import TensorBoardWriter
from nnx_alexnet.report import measuring
from nnx_alexnet.report.html_report import write_report
from nnx_alexnet.report.page_header import best_metric
from nnx_alexnet.report.page_sections import IMAGES
from nnx_alexnet.runs import record_evaluation
from nnx_alexnet.runs.folder import create_run_dir

EVIL = '<script>alert("x")</script><img src="http://example.com/x.png">'


def write_images(run_dir, step=12):
    rng = np.random.default_rng(0)
    writer = TensorBoardWriter(run_dir)
    writer.write_images(step - 1, {"val/mistakes": np.zeros((1, 5, 5, 1))})
    writer.write_images(
        step,
        {
            "val/confusion_matrix": rng.uniform(size=(1, 300, 400, 3)),
            "val/class_accuracy": rng.uniform(size=(1, 200, 900, 3)),
            "val/mistakes": rng.uniform(size=(5, 8, 8, 1)),
            "model/filters": rng.uniform(size=(30, 11, 11, 3)),
            "train/images": rng.uniform(size=(16, 28, 28, 1)),
        },
    )
    writer.write_scalars(step, {"norm/parameters": 2.5})
    table = "\n".join(["path   shape", "conv   float32[8] <&>", "wide " + "x" * 300])
    writer.write_texts(0, {"model/summary": f"```\n{table}\n```"})
    writer.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three epochs and a test, with images."""
    split = tiny_arrays(num=64)
    data = DataModule(split, split, split, batch_size=16)
    trainer = Trainer(
        TinyNet(4, rngs=nnx.Rngs(0)), data, max_epochs=3, log_every_n_steps=2,
        log_dir=tmp_path_factory.mktemp("report"), progress_bar=False,
    )  # fmt: skip
    trainer.fit()
    trainer.test()
    write_images(trainer.run_dir)
    return trainer


@pytest.fixture(scope="module")
def page(run):
    return write_report(run.run_dir).read_text()


@pytest.fixture(scope="module")
def measured(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("measured") / "report.html"
    return write_report(run.run_dir, path, trainer=run)


def hand_made(folder, **files):
    run_dir = folder / "mine/version_0"
    run_dir.mkdir(parents=True)
    for name, text in files.items():
        (run_dir / name.replace("__", ".")).write_text(text)
    return run_dir


class Loads(HTMLParser):
    """Collects the attributes and styles that can make a browser load something."""

    def __init__(self, text):
        super().__init__()
        self.urls, self.tags = [], []
        self.feed(text)
        self.urls += re.findall(r"url\(\s*['\"]?([^)'\"]*)|@import\s+(\S+)", text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        names = ("src", "href", "xlink:href", "srcset", "data", "poster", "action", "background")
        self.urls += [value for name, value in attrs if name in names]


def loaded(text):
    found = [url if isinstance(url, str) else "".join(url) for url in Loads(text).urls]
    return [url for url in found if not url.startswith(("#", "data:image/png;base64,"))]


def test_the_command_writes_the_report_and_prints_its_path(run, tmp_path, capsys):
    assert main(["report", str(run.run_dir)]) == 0
    assert capsys.readouterr().out.strip() == str(run.run_dir / "report.html")
    assert main(["report", str(run.run_dir), "--output", str(tmp_path / "a.html")]) == 0
    assert (tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_the_header_has_the_status_and_the_best_metric(run, page):
    assert "<h1>tinynet/version_0</h1>" in page
    assert '<span class="status finished">finished</span>' in page
    name, step, value = best_metric(run.history)
    assert f"<dt>Best {name}</dt><dd>{value:.2%}</dd><dd>at step {step}</dd>" in page
    assert f"<dt>test/accuracy</dt><dd>{run.metrics['test/accuracy']:.2%}</dd>" in page


def test_training_and_validation_share_a_figure_per_metric(page):
    figures = re.findall(r"<figcaption>([^<]*)</figcaption><svg(.*?)</svg>", page, re.S)
    assert [name for name, _ in figures][:4] == [
        "Loss", "Accuracy", "Norm of the parameters", "Learning rate",
    ]  # fmt: skip
    assert "Examples per second" in [name for name, _ in figures]
    texts = [re.findall(r"<text[^>]*>([^<]*)</text>", svg) for _, svg in figures]
    assert all({"optimizer step", "epoch"} <= set(words) for words in texts)
    is_shared = [{"train", "val"} <= set(words) for words in texts]
    assert is_shared == [True, True] + [False] * (len(figures) - 2)
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_the_newest_images_of_each_tag_are_in_the_page(page):
    assert {
        tag: len(re.findall(rf'alt="{tag}" src="data:image/png;base64,', page)) for tag in IMAGES
    } == {
        "val/confusion_matrix": 1,
        "val/class_accuracy": 1,
        "val/mistakes": 5,
        "model/filters": 30,
        "train/images": 16,
    }
    assert "has no images" not in page


def test_the_page_has_summary_metrics_configuration_and_environment(run, page):
    assert "<pre>path   shape\nconv   float32[8] &lt;&amp;&gt;\nwide" in page
    assert "```" not in page
    rows = re.findall(r"<tr><th>([^<]*)</th><td>([^<]*)</td>", page.replace("<wbr>", ""))
    last = dict(rows)
    for name in ("train/loss", "val/loss", "test/loss"):
        assert last[name] == f"{run.metrics[name]:#.4g}"
    assert last["val/accuracy"] == f"{run.metrics['val/accuracy']:.2%}"
    config = html.escape((run.run_dir / "config.yaml").read_text())
    assert f"<details><summary>config.yaml</summary><pre>{config}</pre></details>" in page
    environment = json.loads((run.run_dir / "environment.json").read_text())
    assert f'<th>flax</th><td class="text">{environment["packages"]["flax"]}</td>' in page
    assert "8 x cpu" in page  # of the tests


def test_the_page_loads_nothing(page, measured):
    for text in (page, measured.read_text()):
        assert loaded(text) == []
        assert not {"script", "link", "iframe", "object", "base"} & set(Loads(text).tags)
        assert "http" not in text.replace('http-equiv="', "")


def test_a_measured_report_has_the_results_of_the_checkpoint(run, measured):
    text = measured.read_text().replace("<wbr>", "")
    titles = re.findall(r"<h2>(\w+)</h2>", text)
    assert titles == [
        "Results", "Classes", "Confidence", "Examples", "Curves", "Metrics", "Checkpoints", "Data",
        "Images", "Model", "Configuration", "Environment",
    ]  # fmt: skip
    assert re.findall(r'<a href="#(\w+)">', text) == [title.lower() for title in titles]
    chosen = choose_checkpoint(run.run_dir)
    assert f"Measured with the checkpoint of {chosen.reason}." in text
    assert "measured in this report" in text
    best = run.history[[row["step"] for row in run.history].index(chosen.step)]
    assert f"<th>accuracy</th><td>{best['val/accuracy']:.2%}</td>" in text
    assert "<dt>Test accuracy</dt>" in text
    assert "cannot be shown" not in text
    assert len(text) < 600_000


def test_classes_are_named_if_the_labels_of_no_whole_split_are_known(run, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "MAX_EXAMPLES", 16)
    images, labels = tiny_arrays(num=64)
    batches = [(images[k : k + 16], labels[k : k + 16]) for k in range(0, 64, 16)]
    other = Trainer(
        TinyNet(4, rngs=nnx.Rngs(0)), DataModule(batches, batches), log_dir=None, progress_bar=False
    )
    path = write_report(run.run_dir, tmp_path / "report.html", trainer=other)
    assert "cannot be shown" not in path.read_text()


def test_a_run_that_cannot_be_measured_still_has_a_report(run, tmp_path, warnings):
    other = Trainer(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), run.data, log_dir=None, progress_bar=False)
    text = write_report(run.run_dir, tmp_path / "a.html", trainer=other).read_text()
    assert "The run could not be measured: `model` is not of the architecture saved" in text
    assert "val/confusion_matrix" in text
    assert any("could not be measured" in message for message in warnings.messages)


def test_everything_that_comes_from_the_run_is_escaped(tmp_path):
    row = {"step": 1, "epoch": 0, f"train/{EVIL}": 1.0, "val/$x_{": 2.0, "test/<b>": 1.0}
    environment = {
        "command": [EVIL], "git_commit": EVIL, "packages": {EVIL: EVIL}, "status": EVIL,
        "stop_reason": EVIL, "started": EVIL, "devices": [EVIL],
    }  # fmt: skip
    run_dir = hand_made(
        tmp_path,
        config__yaml=EVIL,
        metrics__jsonl=json.dumps(row) + "\n",
        environment__json=json.dumps(environment),
    )
    writer = TensorBoardWriter(run_dir)
    writer.write_texts(0, {"model/summary": EVIL})
    writer.close()
    text = write_report(run_dir).read_text()
    tags = set(Loads(text).tags)
    assert not {"script", "img", "b"} & tags
    assert loaded(text) == []
    assert html.escape(EVIL) in text


def test_missing_images_are_named(tmp_path):
    run_dir = hand_made(tmp_path, metrics__jsonl='{"step": 1, "epoch": 0, "val/loss": 0.5}\n')
    text = write_report(run_dir).read_text()
    assert f"The run has no images for {', '.join(IMAGES)}." in text
    assert "<img" not in text


@pytest.mark.parametrize(
    "files",
    [
        {"config__yaml": ""},
        {"metrics__jsonl": ""},
        {"metrics__jsonl": '{"step": 3, "epoch": 0, "val/lo', "environment__json": "{"},
        {"config__yaml": "a: 1\n", "environment__json": "[]"},
        {"config__yaml": "a", "environment__json": '{"before": 3, "packages": 1, "devices": 2}'},
        {"metrics__jsonl": '{"step": 3, "epoch": "x", "val/loss": null}\n[]\n3\n'},
    ],
)
def test_a_damaged_run_still_has_a_report(tmp_path, files):
    run_dir = hand_made(tmp_path, **files)
    (run_dir / "events.out.tfevents.1.damaged").write_bytes(b"no record" * 9)
    text = write_report(run_dir).read_text()
    assert "The run has logged no metrics yet." in text


def test_images_before_a_truncated_record_are_shown(tmp_path):
    run_dir = hand_made(tmp_path, config__yaml="")
    write_images(run_dir)
    (events,) = run_dir.glob("events*")
    events.write_bytes(events.read_bytes()[:-20])
    assert 'alt="val/mistakes"' in write_report(run_dir).read_text()


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"`run`.*must be the folder of a run"):
        write_report(tmp_path)
    run_dir = hand_made(tmp_path, config__yaml="")
    assert main(["report", str(run_dir), "--output", str(tmp_path / "no/a.html")]) == 2
    assert "--output (=" in capsys.readouterr().err


@given(rows=ANY_ROWS, environment=ANY_ENVIRONMENTS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
def test_a_report_of_any_records_shows_the_rest(tmp_path_factory, rows, environment):
    run_dir = create_run_dir(tmp_path_factory.mktemp("logs"), "bad")
    (run_dir / "config.yaml").write_bytes(b"the: configuration\xff")
    (run_dir / "metrics.jsonl").write_bytes(rows)
    (run_dir / "environment.json").write_bytes(environment)
    with catch_warnings(action="ignore"):  # of letters that the font does not have
        page = write_report(run_dir).read_text()
    assert "the: configuration" in page
    assert page.count("<section id=") == 9
    assert page.rstrip().endswith("</html>")


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "environment.json"])
def test_files_behind_links_are_not_in_the_report(tmp_path, name):
    run_dir = write_run(tmp_path / "logs", "mine", [0.5])
    (tmp_path / "secret").write_text('{"step": 4, "val/loss": 77.0, "command": "secret"}\nsecret')
    (run_dir / name).unlink()
    (run_dir / name).symlink_to(tmp_path / "secret")
    page = write_report(run_dir).read_text()
    assert "secret" not in page
    assert "77.00" not in page


def test_event_files_that_are_not_regular_files_are_skipped(tmp_path):
    run_dir = write_run(tmp_path / "logs", "mine", [0.5])
    os.mkfifo(run_dir / "events.out.tfevents.1.fifo")
    (tmp_path / "secret").write_bytes(b"x" * 100)
    (run_dir / "events.out.tfevents.2.link").symlink_to(tmp_path / "secret")
    assert "has no images" in write_report(run_dir).read_text()


def test_a_test_that_the_command_recorded_is_among_the_metrics(tmp_path):
    run_dir = write_run(tmp_path, "mine", [0.5])
    record_evaluation(run_dir, {"test/f1": 0.25}, split="test", step=10, reason="step 10")
    record_evaluation(run_dir, {"val/f1": 0.75}, split="val", step=10, reason="step 10")
    page = write_report(run_dir).read_text().replace("<wbr>", "")
    assert "<th>test/f1</th><td>25.00%</td><td>10</td>" in page
    assert "val/f1" not in page


@pytest.mark.parametrize("kind", ["device", "fifo", "folder"])
def test_a_report_replaces_only_regular_files(tmp_path, kind):
    run_dir = write_run(tmp_path / "logs", "mine", [0.5])
    output = Path(os.devnull) if kind == "device" else tmp_path / "output"
    if kind == "fifo":
        os.mkfifo(output)
    elif kind == "folder":
        output.mkdir()
    with pytest.raises(ValueError, match=r"`output` .* must be a file"):
        write_report(run_dir, output)
    assert not output.is_file()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_a_browser_shows_the_whole_report_without_a_network(measured, width, height, tmp_path):
    from selenium.webdriver import ActionChains

    with open_browser(width, height) as driver:
        driver.get(measured.as_uri())
        assert driver.title == "tinynet/version_0"
        widths = driver.execute_script(
            "return [...document.images].map(image => image.complete && image.naturalWidth)"
        )
        assert len(widths) > 46 + 8  # of the event files, and examples
        assert min(widths) > 0
        boxes = driver.execute_script(
            "return [...document.querySelectorAll('.curves svg')].map(svg => "
            "[svg.clientWidth, svg.clientHeight])"
        )
        assert min(min(box) for box in boxes) > 150
        captions = driver.execute_script(
            "return [...document.querySelectorAll('.curves svg')].map(svg => "
            "svg.closest('figure').querySelector('figcaption').firstChild.textContent.trim())"
        )
        assert captions == [
            "Precision-recall curves", "ROC curves", "Reliability diagram", "Loss", "Accuracy",
            "Norm of the parameters", "Learning rate", "Examples per second",
            "Duration of a step", "Share of the time spent waiting for data",
            "Duration of compilation",
        ]  # fmt: skip
        small = driver.execute_script(
            "return Math.min(...[...document.querySelectorAll('.curves svg g[id] text')]"
            ".map(text => text.getBoundingClientRect().height))"
        )
        assert small > 9  # pixels, which are legible
        scroll = "return document.documentElement.scrollWidth - window.innerWidth"
        assert driver.execute_script(scroll) <= 0
        driver.execute_script("document.querySelector('details').open = true")
        assert driver.execute_script(scroll) <= 0
        shown = (
            "return [...document.querySelectorAll('.tip > g')].filter("
            "each => getComputedStyle(each).visibility == 'visible').length"
        )
        assert driver.execute_script(shown) == 0
        place = driver.find_element("css selector", "#curves .tip > rect")
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", place)
        ActionChains(driver).move_to_element(place).perform()
        assert driver.execute_script(shown) == 1
        assert console_errors(driver) == []
        shot = save_screenshot(driver, f"report-{width}", tmp_path)
    assert shot.stat().st_size > 10_000

"""Names of files, classes and metrics that would act on a terminal, a spreadsheet or a page."""

import csv
import io
import json
import logging
import sys
import time

import numpy as np
import pytest
from fake_trainer import FakeTrainer
from helpers import Dense, tiny_arrays
from hypothesis import given
from hypothesis import strategies as st

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.callbacks import Callback, ProgressBar
from nnx_alexnet.cli import main
from nnx_alexnet.cli.prediction_output import csv_cell, write_predictions
from nnx_alexnet.cli.runs_table import format_runs
from nnx_alexnet.dashboard import images as pictures
from nnx_alexnet.dashboard.classification_results import Mistake
from nnx_alexnet.dashboard.content import as_code
from nnx_alexnet.dashboard.event_reader import read_newest
from nnx_alexnet.dashboard.event_writer import TensorBoardWriter
from nnx_alexnet.support.log import StandardErrorHandler, logger
from nnx_alexnet.support.number_formats import printable

HOSTILE = "a\x1b[2J\nb\r\t\x07\x9b31m\u202egnp.exe\u2028\udcff\ud800{x}%s```"
SHOWN = r"a\x1b[2J\nb\r\t\x07\x9b31m\u202egnp.exe\u2028\udcff\ud800{x}%s```"  # by hand
ACTING = set("\x1b\n\r\t\x07\x9b\u202e\u2028\udcff\ud800")


# ---- One function --------------------------------------------------------------------------------


def test_what_would_act_on_a_terminal_is_escaped():
    assert printable(HOSTILE) == SHOWN
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    assert printable(ValueError("a\nb")) == r"a\nb"


@pytest.mark.parametrize(
    "name",
    ["Übung 1.png", "猫 (2).jpg", "नमस्ते", "می\u200cشود", "👩\u200d🔬", "a\u00a0b", r"a\nb"],
)
def test_names_of_any_script_stay(name):
    assert printable(name) == name


@given(st.text())
def test_any_text_is_one_line_and_is_escaped_once(text):
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    shown.encode()


# ---- predict -------------------------------------------------------------------------------------


def written(form, out=None):
    out = io.StringIO() if out is None else out
    batch = [(HOSTILE, np.array([0.25, 0.75])), ("=1+1.png", np.array([1.0, np.nan]))]
    write_predictions([batch], ["-2", HOSTILE], top_k=2, form=form, out=out)
    return out.getvalue()


def test_text_has_one_line_for_each_file():
    first, second = written("text").splitlines()
    shown = SHOWN.replace(r"\udcff", "\udcff")  # a byte that is not text is written as it is
    assert first == f"{shown}  {shown} 0.7500  -2 0.2500"
    assert second == f"=1+1.png  -2 1.0000  {shown} nan"


def test_json_has_the_exact_names_and_no_nan():
    first, second = map(json.loads, written("json").splitlines())
    assert first == {
        "file": HOSTILE,
        "classes": [{"class": HOSTILE, "probability": 0.75}, {"class": "-2", "probability": 0.25}],
    }
    assert second["classes"][1] == {"class": HOSTILE, "probability": None}


def test_csv_has_the_exact_names_but_no_formula():
    rows = list(csv.reader(io.StringIO(written("csv"), newline="")))
    assert rows[1:] == [
        [HOSTILE, "1", HOSTILE, "0.75"], [HOSTILE, "2", "-2", "0.25"],
        ["'=1+1.png", "1", "-2", "1.0"], ["'=1+1.png", "2", HOSTILE, "nan"],
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["text", "csv", "json"])
def test_nothing_acts_on_a_terminal(form):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    text = written(form, Terminal())
    assert set(text) & ACTING == {"\n"}
    assert len(text.splitlines()) == (5 if form == "csv" else 2)


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "=", "-", "-x.png"]
)
def test_a_cell_that_is_a_formula_gets_an_apostrophe(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["cat", "", "-1", "+2.5e3", "a=b", "'=1", " =1", "0.1"])
def test_other_cells_stay(text):
    assert csv_cell(text) == text


# ---- Log lines, the bar and tables ---------------------------------------------------------------


@pytest.fixture
def printed(monkeypatch, capsys):
    """Returns what was printed of the package's log."""
    level = logger.level
    logger.setLevel(logging.INFO)
    monkeypatch.setattr(logger, "handlers", [StandardErrorHandler()])
    monkeypatch.setattr(logger, "propagate", False)
    yield lambda: capsys.readouterr().err
    logger.setLevel(level)


def test_an_argument_of_a_message_cannot_break_its_line(printed):
    name = HOSTILE.replace("\udcff\ud800", "")  # which pytest cannot report
    logger.warning("`%s` at %d of %g: %r", name, 3, np.float32(0.5), ValueError("a\nb"))
    logger.info("%s", "two\nlines\x1b")
    logger.info("100% of it")
    assert printed().split("\n") == [
        f"`{printable(name)}` at 3 of 0.5: ValueError('a\\nb')",
        "two", "lines\\x1b", "100% of it", "",
    ]  # fmt: skip


class LogOne(Callback):
    """Publishes a metric of that name after each epoch."""

    def __init__(self, name):
        self.metric_names = (name,)

    def on_train_epoch_end(self, trainer):
        trainer.log({self.metric_names[0]: 0.5})


def test_a_run_of_hostile_names_prints_only_lines_of_its_own(printed, tmp_path):
    split = tiny_arrays(num=16, num_classes=4)
    names = (HOSTILE, "=1", "$x$", "b" * 10_000)
    data = DataModule(split, split, batch_size=8, class_names=names, name=HOSTILE)
    model = type("Net\x1b[2J\n", (Dense,), {})()
    trainer = Trainer(
        model, data, max_epochs=2, name="run", log_dir=tmp_path,
        callbacks=[LogOne("val/{x}%s```é"), ProgressBar()], config={"note": HOSTILE},
    )  # fmt: skip
    trainer.fit()
    trainer.validate()
    text = printed()
    assert set(text) & ACTING == {"\n"}
    assert r"Net\x1b[2J\n on 8x8x1" in text
    assert f"{SHOWN}: 16 train" in text
    assert "val/{x}%s```é 0.5" in text
    starts = {line.split()[0] for line in text.splitlines()}
    assert starts <= {
        "device", "model", "data", "run", "folder", "epoch", "Compiled", "ended", "best", "saved",
        "time",
    }  # fmt: skip
    newest = read_newest(trainer.run_dir, ["val/mistakes", "val/confusion_matrix", "config"])
    assert set(newest) >= {"val/mistakes", "val/confusion_matrix"}


def test_a_metric_with_braces_is_drawn_in_the_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    trainer = FakeTrainer([ProgressBar(1e-9)])
    trainer.begin()
    trainer.run([{"val/{x}\x1b[2J": 0.5}] * 2)
    trainer.end()
    assert "val/{x}\\x1b[2J 0.5" in sys.stderr.getvalue()


def test_a_clock_that_goes_back_does_not_change_the_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    trainer = FakeTrainer([ProgressBar(1e-9)])
    trainer.begin()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 100_000)
    trainer.run([{"train/loss": 0.5}] * 2)
    trainer.end()
    assert " left" in sys.stderr.getvalue()
    assert "-" not in sys.stderr.getvalue().replace("--", "")


def test_a_table_of_runs_has_one_line_for_each():
    rows = [{"run": HOSTILE, "status": HOSTILE, f"val/{HOSTILE}": 0.5, "started": HOSTILE}]
    for width in (1000, 40):
        head, row = format_runs(rows, width).splitlines()
        assert not set(head + row) & ACTING


def test_errors_and_results_of_commands_are_one_line_each(tmp_path, capsys):
    name = "a\x1b[2J\nb\u202e"
    run = tmp_path / name / "version_0"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("{}")
    (run / "environment.json").write_text(json.dumps({"status": "\x1b[31m\n"}))
    assert main(["runs", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{printable(run)}/report.html\n"
    for command in ("validate", "verify"):
        assert main([command, str(run)]) == 1
        captured = capsys.readouterr()
        assert len(captured.err.splitlines()) == 1
        assert not set(captured.err + captured.out) & {"\x1b", "\u202e"}


# ---- TensorBoard ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:html5lib")
@pytest.mark.parametrize(
    "text",
    [
        "a\n```\n# injected\n[x](http://evil)", "`\x02`\x02`\n# injected",
        "a ```` b\n~~~\n# injected", "x\r```\r# injected", "```", HOSTILE,
    ],
)  # fmt: skip
def test_text_does_not_leave_its_block_of_code(text):
    from tensorboard.plugin_util import markdown_to_safe_html

    page = markdown_to_safe_html(as_code(text))
    assert page.startswith("<pre><code>")
    assert page.endswith("</code></pre>")
    assert page.count("<") == 4


@pytest.mark.parametrize("name", [HOSTILE, "\udcff", "a/../b", "", "é"])
def test_any_name_can_be_written_to_an_event_file(tmp_path, name):
    writer = TensorBoardWriter(tmp_path)
    image = np.zeros((2, 2, 1), np.uint8)
    writer.write_scalars(1, {name: 0.5})
    writer.write_images(1, {name: image})
    writer.write_texts(1, {name: name})
    writer.write_histograms(1, {name: np.arange(3)})
    writer.write_hparams({name: name}, metric_names=[name])
    writer.write_layout({name: [name]})
    writer.close()
    tag = name.encode("utf-8", "backslashreplace").decode()
    assert read_newest(tmp_path, [tag])[tag].step == 1


def test_pictures_show_any_name():
    image = np.zeros((8, 8, 1))
    names = [HOSTILE, "b" * 100_000]
    plain = pictures.captioned([image], ["a"])
    assert pictures.captioned([image], [HOSTILE.replace("\n", "")]).shape == plain.shape
    mistake = Mistake(confidence=0.5, index=0, label=0, predicted=1, image=image)
    start = time.perf_counter()
    assert pictures.mistakes([mistake], names).shape[2] == 3
    assert time.perf_counter() - start < 5  # a long name is cut before it is measured
    assert pictures.confusion_matrix(np.eye(2, dtype=int), names).shape[2] == 3
    assert pictures.class_accuracy(np.ones(2, int), np.ones(2, int), names).shape[2] == 3

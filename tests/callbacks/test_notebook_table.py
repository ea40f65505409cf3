import re
import time

import pytest
from notebook import FakeNotebook

from nnx_alexnet.callbacks.epoch_table import EpochRow
from nnx_alexnet.callbacks.notebook_table import NotebookTable


@pytest.fixture
def notebook(monkeypatch):
    return FakeNotebook.install(monkeypatch)


def row(epoch, metrics, *, max_epochs=None, speed=None, seconds=None):
    return EpochRow(epoch, max_epochs, 10 * epoch, 30, metrics, speed, seconds)


def rows(number):
    return [row(n + 1, {"val/loss": 1 / 8}, max_epochs=9) for n in range(number)]


def test_rows_are_added_above_the_progress_in_one_output(notebook):
    table = NotebookTable()
    table.draw("epoch", 0, 30, ["compiling"])
    assert notebook.text() == ["epoch · step 0 of 30 · compiling"]
    table.add(row(1, {"train/loss": 0.5}, max_epochs=3, speed=1234.5, seconds=2.0))
    table.draw("epoch", 11, 30, ["loss 0.25"])
    assert notebook.text() == [
        "epoch  step  train/loss  examples/s  time",
        "  1/3    10      0.5000       1,234  2.0s",
        "epoch · step 11 of 30 · loss 0.25",
    ]
    page = notebook.outputs[0]["text/html"]
    assert page.index("</table>") < page.index('<progress value="11" max="30"')


def test_the_table_stays_when_the_progress_is_removed(notebook):
    table = NotebookTable(rows(2))
    table.draw("epoch", 10, 30, [])
    table.close()
    assert notebook.text() == table.text().split("\n")
    assert "<progress" not in notebook.outputs[0]["text/html"]


def test_the_remaining_time_excludes_the_first_steps(notebook, monkeypatch):
    now = iter([0.0, 100.0, 110.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    table = NotebookTable()
    for step in (0, 5, 10):  # 5 steps in 10 s, after 100 s of compilation
        table.draw("epoch", step, 30, [])
    assert [each["text/plain"] for each in notebook.drawn] == [
        "epoch · step 0 of 30", "epoch · step 5 of 30", "epoch · step 10 of 30 · 40s left",
    ]  # fmt: skip


def test_a_fit_of_unknown_length_has_a_bar_without_a_value(notebook):
    NotebookTable().draw("epoch", 7, None, [])
    assert notebook.text() == ["epoch · step 7"]
    assert "<progress style" in notebook.outputs[0]["text/html"]


def test_a_metric_that_is_missing_in_an_epoch_leaves_its_cell_empty(notebook):
    table = NotebookTable(
        [row(1, {"lr": 3.0, "val/x": 1.0, "perf/y": 1.0}), row(2, {"train/x": 2.0})]
    )
    lines = [line.split() for line in table.text().split("\n")]
    assert lines[0][2:-2] == ["train/x", "val/x", "lr"]
    assert [line[2:5] for line in lines[1:]] == [["-", "1.0000", "3.0000"], ["2.0000", "-", "-"]]


def test_of_many_epochs_the_newest_are_shown(notebook):
    page = NotebookTable(rows(130)).html()
    assert "The first 30 epochs are not shown." in page
    shown = re.findall(r">(\d+)/9<", page)
    assert shown == [str(n) for n in range(31, 131)]


def test_texts_are_escaped(notebook):
    NotebookTable([row(1, {"val/<b>": 1.0})]).draw("epoch", 1, None, ["<i>"])
    page = notebook.outputs[0]["text/html"]
    assert "<b>" not in page
    assert "<i>" not in page


def test_metrics_of_single_classes_have_no_columns(notebook):
    table = NotebookTable([row(1, {"val/loss": 1.0, "val/f1": 0.5, "val/f1/cat": 0.25})])
    header = table.text().split("\n")[0].split()
    assert header == ["epoch", "step", "val/loss", "val/f1", "examples/s", "time"]

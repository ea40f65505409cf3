"""What a user sees: a fit in a real terminal that is resized and interrupted, and in a notebook."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time

import pytest

JOB = """
import sys, time
from flax import nnx
from helpers import TinyNet
from nnx_alexnet import Trainer
from nnx_alexnet.callbacks import Callback
from nnx_alexnet.data import load_data

class Slow(Callback):
    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        time.sleep(0.04)

data = load_data("digits", image_size=16, batch_size=128)
model = TinyNet(10, rngs=nnx.Rngs(0))
trainer = Trainer(model, data, max_epochs={epochs}, callbacks=[Slow()], log_dir="logs", name="tiny")
trainer.fit()
"""


class Terminal:
    """A tmux server of its own, with one pane."""

    def __init__(self, folder):
        self._socket = str(folder / "tmux")
        job = folder / "job.py"
        job.write_text(JOB.format(epochs=1000))
        command = f"{shlex.quote(sys.executable)} job.py; echo exit=$?; exec sleep 60"
        self._tmux(
            "-u", "-f", os.devnull, "new-session", "-d", "-x", "80", "-y", "24", command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C.UTF-8", "TMUX": ""},
        )  # fmt: skip

    def _tmux(self, *arguments, **options):
        command = ["tmux", "-S", self._socket, *arguments]
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=20, **options
        )
        return done.stdout

    def rows(self):
        """The rows on the screen, down to the last that is not empty."""
        return self._tmux("capture-pane", "-p").rstrip().split("\n")

    def wait_for(self, condition, seconds=40):
        deadline = time.monotonic() + seconds
        while not condition(rows := self.rows()):
            assert time.monotonic() < deadline, "\n".join(rows)
            time.sleep(0.1)
        return rows

    def resize(self, columns):
        self._tmux("resize-window", "-x", str(columns), "-y", "24")

    def watch(self, columns):
        """Screens until an epoch has ended, of several bars and of lines above them."""
        # Until the next bar the terminal shows the old one, broken or cut.
        self.wait_for(lambda rows: is_drawn(rows) and len(rows[-1]) < columns)
        screens = []
        self.wait_for(lambda rows: screens.append(rows) or has_new_epoch(screens))
        return screens

    def press(self, key):
        self._tmux("send-keys", key)

    def close(self):
        self._tmux("kill-server")


def is_bar(row):
    return "█" in row or " left" in row or "|" in row


def is_drawn(rows):
    return is_bar(rows[-1]) and not any(map(is_bar, rows[:-1]))


def epochs_of(rows):
    return [int(number) for number in re.findall(r"^ *(\d+)/1000 +\d", "\n".join(rows), re.M)]


def has_new_epoch(screens):
    return max(epochs_of(screens[-1])) > max(epochs_of(screens[0]))


@pytest.fixture(scope="module")
def screens(tmp_path_factory):
    """What one fit shows: when it began, at each width in turn, and after Ctrl-C."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    terminal = Terminal(tmp_path_factory.mktemp("terminal"))
    try:
        shown = {"start": terminal.wait_for(lambda rows: len(epochs_of(rows)) == 2)}
        shown[80] = terminal.watch(80)
        for columns in (50, 120):
            terminal.resize(columns)
            shown[columns] = terminal.watch(columns)
        terminal.press("C-c")
        shown["end"] = terminal.wait_for(lambda rows: "exit=" in rows[-1])
        yield shown
    finally:
        terminal.close()


def test_a_fit_begins_with_what_it_will_do(screens):
    labels = [row.split()[0] for row in screens["start"][:7]]
    assert labels == ["device", "model", "data", "run", "folder", "train", "epoch"]
    assert all(len(row) < 80 for row in screens["start"][:5])


@pytest.mark.parametrize("columns", [80, 50, 120])
def test_the_bar_is_on_the_last_row_at_each_terminal_width(screens, columns):
    assert any(is_bar(rows[-1]) for rows in screens[columns])
    for rows in screens[columns]:
        assert not any(map(is_bar, rows[:-1])), "\n".join(rows)
    bar = next(rows[-1] for rows in screens[columns] if is_bar(rows[-1]))
    assert re.match(r"epoch \d+/1000 \|.*\| step \d+/10000  .* left", bar)
    assert len(bar) < columns


@pytest.mark.parametrize("columns", [80, 50, 120])
def test_a_line_of_each_epoch_stays_above_the_bar(screens, columns):
    first, last = epochs_of(screens[columns][0]), epochs_of(screens[columns][-1])
    assert max(last) > max(first)
    assert last == list(range(min(last), max(last) + 1))


def test_ctrl_c_removes_the_bar_and_prints_how_to_resume(screens):
    end = screens["end"]
    assert not any(map(is_bar, end)), "\n".join(end)
    assert "^C" not in "\n".join(end)
    assert any("interrupted" in row for row in end if row.startswith("ended"))
    assert 'resume  fit(resume="auto")' in end
    assert end[-1] == "exit=0"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what talks to the kernel, in this process
def test_in_a_notebook_one_table_is_updated_in_place(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    from nbformat.v4 import new_code_cell, new_notebook

    drawn = []

    class Client(nbclient.NotebookClient):
        def process_message(self, msg, cell, cell_index):
            if msg["msg_type"] in ("display_data", "update_display_data"):
                drawn.append(msg["content"]["data"]["text/plain"].split("\n"))
            return super().process_message(msg, cell, cell_index)

    notebook = new_notebook(cells=[new_code_cell(JOB.format(epochs=3))])
    resources = {"metadata": {"path": str(tmp_path)}}
    options = {"timeout": 60, "kernel_name": "python3", "coalesce_streams": True}
    Client(notebook, resources=resources, **options).execute()
    outputs = notebook.cells[0].outputs
    kinds = [out.get("name", out.output_type) for out in outputs if out.get("name") != "stderr"]
    assert kinds == ["stdout", "display_data", "execute_result"]
    assert "compiling" in drawn[0][-1]
    progress = [text[-1] for text in drawn if text[-1].startswith("epoch ")]
    assert len(progress) > 4
    assert all(re.match(r"epoch \d/3 · step \d+ of 30( · |$)", line) for line in progress)
    assert any(re.search(r" left · loss \d", line) for line in progress)
    assert [row.split()[:2] for row in drawn[-1][1:]] == [
        ["1/3", "10"],
        ["2/3", "20"],
        ["3/3", "30"],
    ]
    assert outputs[1].data["text/html"].count("<tr>") == 3
    assert "<progress" not in outputs[1].data["text/html"]
    assert outputs[0].text.startswith("device ")
    assert "ended   at step 30: 3 epochs done" in outputs[0].text
    assert not any("nnx_alexnet" in out.text for out in outputs if out.get("name") == "stderr")

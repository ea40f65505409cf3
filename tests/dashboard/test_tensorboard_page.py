"""TensorBoard on a run of the command line, as a browser shows it."""

import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import open_browser, save_screenshot

from nnx_alexnet.cli import main

# The texts that each tab must show.
pytestmark = pytest.mark.charts

TABS = {
    "timeseries": ["tinynet/version_0", "train /loss", "val 2 cards"],
    "scalars": ["train/loss", "val/loss", "z_perf/images_per_second", "tinynet/version_0"],
    "custom_scalars": ["training and validation", "accuracy", "train/loss", "val/loss"],
    "images": ["z_model/filters", "y_train/images", "y_val/confusion_matrix",
               "y_val/class_accuracy", "y_val/mistakes"],
    "histograms": ["z_parameters/conv/kernel", "z_parameters/dense/bias"],
    "text": ["class_path: helpers.TinyNet", "batch statistics"],
    "hparams": ["tinynet/version_0", "data.batch_size", "val/accuracy"],
    "profile": ["tinynet/version_0/", "Host Compute Time"],
}  # fmt: skip
GROUPED = ("scalars", "images", "histograms")

# Components have shadow trees, and the profile is in a frame.
WALK = """
const texts = [], images = [];
const walk = node => {
  if (node.nodeType === Node.TEXT_NODE && node.textContent.trim()) texts.push(node.textContent);
  if (['STYLE', 'SCRIPT'].includes(node.nodeName)) return;
  if (node.nodeName === 'IFRAME' && node.contentDocument) walk(node.contentDocument.body);
  if (node.nodeName === 'IMG' && node.naturalWidth) images.push(node.naturalWidth);
  if (node.shadowRoot) node.shadowRoot.childNodes.forEach(walk);
  node.childNodes.forEach(walk);
};
walk(document.body);
return [texts.join(' '), images];
"""


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", "helpers.TinyNet", "--data.image_size", "16", "--data.batch_size", "64"]
    arguments += ["--trainer.max_epochs", "2", "--trainer.callbacks", "Profiler"]
    arguments += ["--trainer.log_every_n_steps", "5", "--trainer.progress_bar", "false"]
    assert main(["fit", *arguments]) == 0
    return tmp_path / "logs"


@contextmanager
def serve(logs):
    """Starts TensorBoard on these runs and yields its address."""
    command = [Path(sys.executable).with_name("tensorboard"), "--logdir", logs]
    with subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", "0"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            for line in process.stderr:
                if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                    yield found[0]
                    return
            raise AssertionError("tensorboard did not start")
        finally:
            process.kill()


@pytest.mark.slow
def test_every_tab_of_tensorboard_shows_this_run(logs, tmp_path):
    with open_browser(1366, 768, local_host=True) as driver, serve(logs) as address:
        for tab, expected in TABS.items():
            # A filter opens the group of its matches; otherwise only the first groups are open.
            driver.get(f"{address}#{tab}&tagFilter=." if tab in GROUPED else f"{address}#{tab}")
            driver.refresh()
            deadline = time.monotonic() + 40
            while True:
                text, images = driver.execute_script(WALK)
                missing = [each for each in expected if each not in text]
                if tab == "images" and len(images) < 5:
                    missing.append("five images")
                if not missing:
                    break
                assert time.monotonic() < deadline, f"{tab} lacks {missing}: {text[-2000:]}"
                time.sleep(0.5)
            time.sleep(1)  # until the charts have moved into place
            save_screenshot(driver, f"tensorboard_{tab}", tmp_path)

"""The worked examples reach the results that they state, and resume as if nothing had happened."""

import importlib
import logging
import re
from pathlib import Path

import pytest
from helpers import At, press_ctrl_c

from nnx_alexnet.checkpoints.choosing import choose_checkpoint
from nnx_alexnet.checkpoints.items import read_checkpoint

# As users run them: the README states these results.
SLOW = pytest.mark.slow, pytest.mark.optimized

README = Path(__file__).parents[2] / "nnx_alexnet/data/README.md"

# The result that each example must reach. An untrained model does not reach it.
RESULTS = {
    "language_model": lambda r: r["perplexity"] < 0.8 * r["bigram_perplexity"],
    "tabular_regression": lambda r: r["r2"] > max(0.3, r["r2_of_least_squares"]),
    "multi_label": lambda r: min(r.values()) > 0.9 and len(r) == 4,
    "segmentation": lambda r: r["iou"] > max(0.8, 1.5 * r["iou_of_bright_pixels"]),
    "contrastive": lambda r: r["retrieval"] > max(0.35, 3 * r["retrieval_before"]),
    "gan": lambda r: r["distance"] < 0.5 * r["distance_of_a_normal_distribution"],
    "recurrent": lambda r: r["accuracy"] > 0.95,
    "graph_network": lambda r: r["accuracy"] > max(0.97, 0.2 + r["accuracy_from_counts"]),
    "vae": lambda r: r["negative_elbo"] < 0.85 * r["of_independent_pixels"],
    "lora": lambda r: (
        r["accuracy"] > max(0.8, 4 * r["accuracy_before"])
        and r["changed_in_the_base"] == 0
        and 0 < r["changed_parameters"] < 0.05 * r["parameters"]
    ),
}
EXAMPLES = [*RESULTS]


def test_the_readme_lists_every_example():
    files = {path.stem for path in Path(__file__).parent.glob("*.py")} - {"test_examples"}
    listed = re.findall(r"\| \[`(\w+)`\]\(.*/tests/examples/\1\.py\) \|", README.read_text())
    assert sorted(listed) == sorted(files) == sorted(EXAMPLES)


# Those that take more than 5 seconds; they are trained and interrupted like the others.
LONG = (
    "language_model",
    "segmentation",
    "contrastive",
    "lora",
    "gan",
    "graph_network",
    "recurrent",
)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=SLOW if n in LONG else ()) for n in EXAMPLES]
)
def test_an_example_reaches_its_result(name, tmp_path, warnings):
    results = importlib.import_module(name).main(log_dir=tmp_path)
    assert RESULTS[name](results), results
    (run_dir,) = tmp_path.glob("*/version_0")
    assert [*run_dir.glob("events.out.tfevents.*")]
    complaints = [r.getMessage() for r in warnings.records if r.levelno >= logging.WARNING]
    assert not complaints


def digest(trainer):
    return read_checkpoint(choose_checkpoint(trainer.run_dir, "last").path, items=()).digest


QUICK = ("vae",)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else SLOW) for n in EXAMPLES],
)
def test_an_interrupted_example_resumes_to_the_same_digest(name, tmp_path):
    example = importlib.import_module(name)

    def trainer(folder, *callbacks):
        return example.make_trainer(max_epochs=2, log_dir=tmp_path / folder, callbacks=callbacks)

    reference = trainer("reference")
    reference.fit()
    steps = reference.steps_per_epoch
    interrupted = trainer("interrupted", At(steps + steps // 2, press_ctrl_c))
    interrupted.fit()
    assert interrupted.interrupted
    halfway = digest(interrupted)
    assert interrupted.global_step == steps + steps // 2
    resumed = trainer("interrupted")
    resumed.fit(resume="auto")
    assert resumed.run_dir == interrupted.run_dir
    assert resumed.global_step == 2 * steps
    assert digest(resumed) == digest(reference) != halfway

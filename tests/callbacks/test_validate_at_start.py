"""`ValidateAtStart` validates before the first step."""

import json

import numpy as np
from helpers import Dense, tiny_arrays
from small_runs import numpy_metrics, tiny_trainer

from nnx_alexnet.callbacks import ValidateAtStart


def test_the_history_begins_with_the_metrics_of_the_untrained_model(tmp_path):
    trainer = tiny_trainer(model=Dense(), callbacks=[ValidateAtStart()], log_dir=tmp_path)
    expected = numpy_metrics(trainer.model, *tiny_arrays(num=30, seed=1))
    history = trainer.fit()
    assert [(row["epoch"], row["step"]) for row in history] == [(0, 0), (0, 4), (1, 8)]
    np.testing.assert_allclose(
        [history[0]["val/loss"], history[0]["val/accuracy"]], expected, atol=1e-6
    )
    plain = tiny_trainer(model=Dense()).fit()
    assert plain[-1]["val/loss"] == history[-1]["val/loss"], "training is the same without it"
    first = json.loads((trainer.run_dir / "metrics.jsonl").read_text().splitlines()[0])
    assert (first["step"], first["val/loss"]) == (0, history[0]["val/loss"])
    again = tiny_trainer(
        model=Dense(), callbacks=[ValidateAtStart()], log_dir=tmp_path, max_epochs=3
    )
    steps = [row["step"] for row in again.fit(resume="auto")]
    assert steps == [0, 4, 8, 12], "a resumed run does not repeat it"

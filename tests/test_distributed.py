"""Two processes on this machine, with CPU devices, train, stop, save and fail together."""

import json
import signal
import time

import numpy as np
import pytest
from helpers import tiny_arrays
from jobs import DistributedJob, run_processes
from sklearn.metrics import roc_auc_score

from nnx_alexnet.checkpoints.items import find_steps, read_checkpoint

HEARTBEAT = 10  # seconds, as in the job


def steps_on_disk(folder, version=0):
    return sorted(find_steps(folder / "logs" / "run" / f"version_{version}" / "checkpoints"))


def close(first, second, rtol):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=rtol, atol=rtol, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same run in one process on four devices."""
    return run_processes(
        tmp_path_factory.mktemp("alone"), processes=1, devices=4, witness=True, applied=True
    )[0]


def test_two_processes_share_the_data_and_give_the_results_of_one(tmp_path, alone):
    first, second = run_processes(tmp_path, witness=True, applied=True)
    for epoch in range(2):
        parts = first["train"][epoch], second["train"][epoch]
        assert not set(parts[0]) & set(parts[1])
        assert sorted(parts[0] + parts[1]) == list(range(64))
        assert sorted(alone["train"][epoch]) == list(range(64))
        parts = first["val"][epoch], second["val"][epoch]
        assert sorted(parts[0] + parts[1]) == list(range(37))
    assert set(first["outputs"]) == {8}, "hooks receive the rows that their process has read"
    assert first["history"][-1]["val/loss"] == second["history"][-1]["val/loss"]
    close(first["test"], alone["test"], 1e-5)
    close(first["parameters"], alone["parameters"], 1e-5)
    assert first["parameters"] == second["parameters"]
    assert first["predictions"][:2] == [29, 4]
    np.testing.assert_allclose(first["predictions"], alone["predictions"], rtol=1e-5)
    assert not first["predicted"].keys() & second["predicted"].keys()
    close(first["predicted"] | second["predicted"], alone["predicted"], 1e-5)
    assert first["compilations"] == {"train": 1, "evaluate": 1, "predict": 1}
    # Only the first one writes.
    assert first["saved"]
    assert not second["saved"]
    (run_dir,) = (tmp_path / "logs" / "run").iterdir()
    assert len(list(run_dir.glob("events.out.tfevents.*"))) == 2, "of fit and of test"
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len([line for line in lines if "val/loss" in line]) == 2
    assert "folder" in (tmp_path / "0.log").read_text()
    assert "folder" not in (tmp_path / "1.log").read_text()


@pytest.mark.slow
def test_data_workers_do_not_join_the_job_again(tmp_path):
    first, second = run_processes(tmp_path, model="dense", epochs=1, workers=1, witness=True)
    assert sorted(first["train"][0] + second["train"][0]) == list(range(64))


@pytest.mark.slow
@pytest.mark.parametrize("keep_on_device", [True, False])
@pytest.mark.parametrize("num", [70, 72])
def test_a_smaller_last_batch_is_shared_or_read_whole_by_each_process(
    tmp_path, num, keep_on_device
):
    """4 devices cannot share 6 examples, but they can share 8."""
    options = {"num": num, "drop_last": False, "witness": True, "keep_on_device": keep_on_device}
    (tmp_path / "alone").mkdir()
    alone = run_processes(tmp_path / "alone", processes=1, devices=4, **options)[0]
    first, second = run_processes(tmp_path, **options)
    for epoch in range(2):
        parts = first["train"][epoch], second["train"][epoch]
        both = set(parts[0]) & set(parts[1])
        assert len(both) == (6 if num == 70 else 0)
        assert sorted({*parts[0], *parts[1]}) == list(range(num))
        assert sorted(alone["train"][epoch]) == list(range(num))
    close(first["parameters"], alone["parameters"], 1e-5)
    assert first["parameters"] == second["parameters"]
    assert first["compilations"] == {"train": 2, "evaluate": 1}


@pytest.mark.parametrize(
    ("meddler", "least", "most"),
    [
        pytest.param({"what": "stop", "step": 3}, 3, 3, id="at a step", marks=pytest.mark.slow),
        pytest.param(
            {"what": "epoch stop", "step": 0},
            4,
            4,
            id="at the end of an epoch",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"what": "stop", "step": 3, "clock": True},
            3,
            6,
            id="between dispatches",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_stop_request_of_one_process_stops_both_at_the_same_step(tmp_path, meddler, least, most):
    first, second = run_processes(tmp_path, model="tiny", epochs=5, meddler=meddler)
    assert first["step"] == second["step"]
    assert least <= first["step"] <= most
    assert second["stop_reason"] == "I have seen enough"
    assert "another process" in first["stop_reason"]


@pytest.mark.slow
def test_a_timer_lowered_rates_and_auroc_are_the_same_in_both(tmp_path):
    """AUROC is compared with scikit-learn. The clock of the second process does not count."""
    first, second = run_processes(tmp_path, model="dense", epochs=9, timer=10)
    assert first["step"] == second["step"]
    assert 10 <= first["step"] <= 16
    assert first["stop_reason"] == "`max_time` (=10) has elapsed"
    assert "another process" in second["stop_reason"]
    for name in ("lr", "val/loss", "val/auroc"):
        values = [[row[name] for row in report["history"]] for report in (first, second)]
        assert values[0] == values[1], name
    rates = [row["lr"] for row in first["history"]]
    assert rates[:3] == pytest.approx([0.01, 0.01, 1e-8], rel=1e-5)
    losses = [row["val/loss"] for row in first["history"]]
    assert losses[2] == pytest.approx(losses[1], rel=1e-4), "the rate of the third epoch is 0"
    assert losses[1] != pytest.approx(losses[0], rel=1e-4)
    assert first["parameters"] == second["parameters"]

    labels = tiny_arrays(num=37, seed=1)[1]
    areas = {
        "multi-class": roc_auc_score(labels, np.array(first["probabilities"]), multi_class="ovr"),
        "binary": roc_auc_score(labels % 2, np.array(first["binary"]["predictions"])),
    }
    for report in (first, second):
        assert report["history"][-1]["val/auroc"] == pytest.approx(areas["multi-class"], abs=1e-6)
        assert report["binary"]["val/auroc"] == pytest.approx(areas["binary"], abs=1e-6)


@pytest.mark.slow
def test_a_save_request_of_one_process_saves_that_step(tmp_path):
    meddler = {"what": "save", "step": 3}
    run_processes(tmp_path, epochs=1, meddler=meddler, checkpoint={"keep_latest": 9})
    assert steps_on_disk(tmp_path) == [3, 4]


@pytest.mark.slow
def test_sigterm_to_one_saves_the_same_step_and_ends_both_resumably(tmp_path, alone):
    job = DistributedJob(tmp_path, meddler={"what": "SIGTERM", "step": 3})
    assert job.wait() == [143, 143]
    first, second = job.reports
    assert first["step"] == second["step"] == 3
    assert first["interrupted"]
    assert second["interrupted"]
    assert steps_on_disk(tmp_path) == [3]
    reports = run_processes(tmp_path, resume="auto")
    assert reports[0]["step"] == 8
    close(reports[0]["parameters"], alone["parameters"], 1e-5)


@pytest.mark.slow
def test_sigterm_during_validation_interrupts_it_in_both(tmp_path, alone):
    job = DistributedJob(tmp_path, meddler={"what": "validation SIGTERM", "step": 0}, val=600)
    assert job.wait() == [143, 143]
    assert [report["step"] for report in job.reports] == [4, 4]
    assert steps_on_disk(tmp_path) == [4]
    reports = run_processes(tmp_path, resume="auto", val=600)
    assert reports[0]["step"] == 8
    close(reports[0]["parameters"], alone["parameters"], 1e-5)


@pytest.mark.slow
def test_after_sigkill_of_one_the_other_ends_and_one_process_can_resume(tmp_path, alone):
    job = DistributedJob(tmp_path, pause=0.3, checkpoint={"every_n_steps": 2})
    job.until_step(3)
    job.processes[1].kill()
    killed = time.monotonic()
    codes = job.wait()
    assert time.monotonic() - killed < 2 * HEARTBEAT + 5
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, None)
    assert steps_on_disk(tmp_path)[0] == 2
    reports = run_processes(tmp_path, processes=1, devices=1, resume="auto")
    assert reports[0]["step"] == 8
    close(reports[0]["parameters"], alone["parameters"], 1e-5)


def test_an_error_in_one_process_ends_both_in_bounded_time(tmp_path):
    job = DistributedJob(tmp_path, model="dense", meddler={"what": "fail", "step": 2})
    started = time.monotonic()
    codes = job.wait()
    assert time.monotonic() - started < 60
    assert codes[1] == 1
    assert codes[0] not in (0, None)
    assert "ZeroDivisionError: only here" in job.text(1)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["split", "sharded"])
def test_a_state_split_over_processes_is_saved_whole(tmp_path, how):
    options = {"model": "split", "checkpoint": {"keep_latest": 9}}
    if how == "split":
        options |= {"devices": 1, "devices_argument": {"data": 1, "model": 2}}
    else:
        options |= {"shard_state": True}
    first, _ = run_processes(tmp_path, **options)
    saved = read_checkpoint(tmp_path / "logs" / "run" / "version_0" / "checkpoints" / "8")
    for name, values in first["parameters"].items():
        assert saved.arrays[f"model/{name}"].ravel().tolist() == values, name
    again = run_processes(tmp_path, processes=1, devices=1, model="split", resume="auto")[0]
    assert again["parameters"] == first["parameters"], "a finished run trains no further"
    if how == "sharded":
        on = run_processes(tmp_path, **options | {"resume": "auto", "epochs": 3})
        assert on[0]["step"] == 12


@pytest.mark.slow
def test_a_non_finite_example_of_one_process_ends_both(tmp_path):
    job = DistributedJob(tmp_path, model="split", shard_state=True, nan=3)
    assert job.wait() == [0, 0]
    steps = [report["caught"].split(" The batch")[0] for report in job.reports]
    assert steps == ["Step 4 had a loss of nan."] * 2
    assert (
        sum("its `image` is not finite for [3]" in report["caught"] for report in job.reports) == 1
    )


@pytest.mark.slow
def test_sigterm_to_one_at_the_end_of_fit_ends_both(tmp_path):
    job = DistributedJob(
        tmp_path, epochs=1, applied=True, meddler={"what": "late SIGTERM", "step": 0}
    )
    assert job.wait(60) == [143, 143]
    assert [report["step"] for report in job.reports] == [4, 4]


@pytest.mark.slow
def test_a_second_fit_starts_again_with_a_split_state(tmp_path):
    options = {"model": "split", "shard_state": True, "epochs": 1, "twice": True}
    first, second = run_processes(tmp_path, **options, meddler={"what": "late stop", "step": 0})
    for report in (first, second):
        assert report["step"] == 4
        assert report["stop_reason"] is None, "it was that of the previous fit"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"model_seeds": [0, 1]}, "`model` differs between the processes"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ({"resume": "nowhere"}, "`resume` (='nowhere') must be"),
                ({"rates": [0.01, 0.02]}, "`optimizer` differs between the processes"),
                ({"devices_argument": 1}, "`devices` (=1) has no device of the processes [1]"),
                ({"iterable": True}, "`val` is an iterable"),
            ]
        ),
    ],
)
def test_differences_between_the_processes_end_both_with_an_error(tmp_path, options, text):
    job = DistributedJob(tmp_path, **options)
    codes = job.wait(60)
    assert all(codes), codes
    assert any(text in job.text(number) for number in range(2)), job.text(0) + job.text(1)

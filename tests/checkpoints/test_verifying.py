"""Verifying the checkpoints of a run."""

import errno
import json
import shutil
from pathlib import Path

import pytest
from saved_runs import fail_in_orbax, fail_to_open

from nnx_alexnet.checkpoints import read_checkpoint
from nnx_alexnet.checkpoints.verifying import verify_checkpoints
from nnx_alexnet.cli import main

# Orbax leaves coroutines behind when it cannot read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_each_checkpoint_is_listed_with_its_digest(saved):
    folder = saved / "checkpoints"
    expected = [
        {
            "checkpoint": str(folder / name),
            "step": int(name),
            "digest": read_checkpoint(folder / name).digest,
        }
        for name in ("10", "20")
    ]
    assert [*verify_checkpoints(saved)] == [*verify_checkpoints(folder)] == expected
    assert [*verify_checkpoints(folder / "20")] == expected[1:]


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`run` \(=.*\) holds no checkpoint"):
        next(verify_checkpoints(tmp_path))


@pytest.mark.parametrize("hinder", [fail_in_orbax, fail_to_open])
def test_unreadable_checkpoints_are_told_from_damaged_ones(run, monkeypatch, capsys, hinder):
    with monkeypatch.context() as patch:
        hinder(patch, OSError(errno.EIO, "Input/output error"))
        assert main(["verify", str(run)]) == 3
        header, *lines = capsys.readouterr().out.splitlines()
        assert header.split()[:3] == ["step", "state", "digest"]
        assert [line.split()[:5] for line in lines] == [
            [step, "unknown", "could", "not", "be"] for step in ("10", "20")
        ]
        assert all("Input/output error" in line for line in lines)
        assert main(["verify", str(run), "--json"]) == 3
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["error"] for row in rows] == ["OSError: [Errno 5] Input/output error"] * 2
    (run / "checkpoints/10/model/_METADATA").write_text("{")
    assert main(["verify", str(run)]) == 1
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split()[1:4] == ["damaged", "model/_METADATA", "has"]
    assert second.split()[1] == "intact"


@pytest.mark.parametrize("place", ["_read_json", "_read_manifest"])
def test_a_checkpoint_deleted_meanwhile_is_skipped(run, while_reading, place):
    while_reading(place, lambda folder: shutil.rmtree(run / "checkpoints/10"))
    assert [Path(row["checkpoint"]).name for row in verify_checkpoints(run)] == ["20"]

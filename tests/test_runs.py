"""Run folders: their numbers, and the names that are allowed."""

import os

import pytest

from nnx_alexnet.runs import check_name, create_run_dir, find_runs


@pytest.mark.parametrize("name", ["alexnet", "a/b", "v1.2_x-y", "Größe"])
def test_names_that_stay_inside(name, tmp_path):
    folder = create_run_dir(tmp_path, name)
    assert folder.is_relative_to(tmp_path)
    assert folder.name == "version_0"


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/../../x", "/etc", "a//b", "a b", ".", "a\\b", "a\x00"]
)
def test_names_that_would_lead_elsewhere_are_refused(name):
    with pytest.raises(ValueError, match="`name`"):
        check_name(name)


def test_versions_count_up_from_the_largest(tmp_path):
    (tmp_path / "mine/version_7").mkdir(parents=True)
    (tmp_path / "mine/version_old").mkdir()
    assert create_run_dir(tmp_path, "mine").name == "version_8"


def test_runs_are_found_in_the_order_of_their_making(tmp_path):
    made = [create_run_dir(tmp_path, name) for name in ("b", "a/c", "b")]
    for time, run in enumerate(made):
        (run / "config.yaml").touch()
        os.utime(run / "config.yaml", (time, time))
    create_run_dir(tmp_path, "empty")
    assert find_runs(tmp_path) == made

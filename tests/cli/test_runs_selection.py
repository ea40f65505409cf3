import pytest

from nnx_alexnet.cli.runs_selection import filter_runs, named_runs

ROWS = [
    {"run": "sweep/a/version_0", "path": "/logs/sweep/a/version_0", "status": "failed",
     "steps": 30, "tags": "first, slow", "started": "2026-11-25T10:00:00+0000"},
    {"run": "sweep/b/version_0", "path": "/logs/sweep/b/version_0", "status": "finished",
     "steps": 400, "val/accuracy": 0.9, "started": "2026-11-27T10:00:00+0000"},
    {"run": "c/version_1", "path": "/logs/c/version_1", "status": "finished",
     "steps": None, "val/accuracy": 0.5, "started": None},
]  # fmt: skip


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        ([], "abc"),
        (["status=failed"], "a"),
        (["status!=failed"], "bc"),
        (["run=sweep/*"], "ab"),
        (["run=sweep/*", "status = finished"], "b"),
        (["steps=30"], "a"),
        (["steps<=400"], "ab"),
        (["steps<400"], "a"),
        (["val/accuracy>=0.5"], "bc"),
        (["val/accuracy>0.5"], "b"),
        (["started>=2026-11-26"], "b"),
        (["steps!=30"], "bc"),
        (["tags=*slow*"], "a"),
        (["status=failed", "val/accuracy>0.5"], ""),
    ],
)
def test_a_run_must_meet_all_conditions(conditions, names):
    found = [row["run"].split("/version")[0][-1] for row in filter_runs(ROWS, conditions)]
    assert "".join(found) == names


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("failed", "must be a column, a comparison and a value"),
        ("status=", "must be a column, a comparison and a value"),
        ("acuracy>0.5", "did you mean 'val/accuracy'"),
        ("steps>many", "must compare steps with a number"),
    ],
)
def test_a_condition_without_a_meaning_is_refused(condition, message):
    with pytest.raises(ValueError, match=message):
        filter_runs(ROWS, [condition])


def test_the_name_of_a_run_takes_precedence_over_a_pattern():
    rows = [{"run": name, "path": f"/logs/{name}"} for name in ("a1/version_0", "a[1]/version_0")]
    assert named_runs(rows, ["a[1]/version_0"], "delete") == [rows[1]]
    assert named_runs(rows[:1], ["a[1]/version_0"], "delete") == [rows[0]]
    assert rows[1] in filter_runs(rows, ["run=a[1]/version_0"])


def test_runs_are_named_by_patterns_and_folders():
    found = named_runs(ROWS, ["c/version_1", "sweep/*", "/logs/sweep/../c/version_1"], "compare")
    assert [row["run"] for row in found] == [
        "c/version_1", "sweep/a/version_0", "sweep/b/version_0",
    ]  # fmt: skip
    with pytest.raises(
        ValueError, match=r"`delete` \(='c/version_2'\).*did you mean 'c/version_1'"
    ):
        named_runs(ROWS, ["c/version_2"], "delete")

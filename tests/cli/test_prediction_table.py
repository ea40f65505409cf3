import io

import pytest
from rich.cells import cell_len

from nnx_alexnet.cli.prediction_table import prediction_table

FILES = ["scans/2026-11-27 customer form number 17/page 1 digit 4.png", "a.png"]


def printed(files, class_names, rows):
    out = io.StringIO()
    write = prediction_table(files, class_names, out)
    for file, best in rows:
        write(file, best)
    return out.getvalue().splitlines()


def test_each_class_has_a_row_and_the_file_is_named_once():
    rows = [("a.png", [("dog", 0.75), ("cat", 0.25)]), ("bb.png", [("cat", 1.0), ("dog", 0.0)])]
    assert printed(["a.png", "bb.png"], ["cat", "dog"], rows) == [
        "file    class  probability",
        "a.png   dog         0.7500",
        "        cat         0.2500",
        "bb.png  cat         1.0000",
        "        dog         0.0000",
    ]


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_long_names_are_cut_to_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    names = ["great grey owl, great gray owl, Strix nebulosa", "猫" * 20]
    rows = [(file, [(name, 0.5) for name in names]) for file in FILES]
    lines = printed(FILES, names, rows)
    assert {cell_len(line) for line in lines} == {columns}
    assert lines[1].split("  ")[0].endswith("4.png")
    assert "great" in lines[1]


def test_unknown_classes_and_control_characters_are_shown():
    lines = printed(["a\x1b.png"], [], [("a\x1b.png", [("3", float("nan"))])])
    assert lines[1] == r"a\x1b.png  3              nan"

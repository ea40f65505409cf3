import pytest

from nnx_alexnet.cli.runs_comparison import format_comparison
from nnx_alexnet.runs import Settings

ROWS = [
    {"run": "a/version_0", "status": "finished", "steps": 40, "val/loss": 0.25, "duration": 62.0},
    {"run": "b/version_0", "status": "failed", "error": "E: it broke. Try this.", "test/loss": 2.0},
]
SETTINGS = [
    Settings({"seed": "0", "lr": "0.1", "only_a": "1"}),
    Settings({"seed": "0", "lr": "0.2"}),
]


def test_results_and_different_settings_are_compared():
    lines = [line.split("  ") for line in format_comparison(ROWS, SETTINGS).splitlines()]
    cells = [[cell.strip() for cell in line if cell] for line in lines]
    assert cells == [
        ["a/version_0", "b/version_0"],
        ["status", "finished", "failed"],
        ["epochs", "-", "-"],
        ["steps", "40", "-"],
        ["duration", "1m02s", "-"],
        ["val/loss", "0.2500", "-"],
        ["test/loss", "-", "2.0000"],
        ["reason", "-", "E: it broke."],
        ["lr", "0.1", "0.2"],
        ["only_a", "1", "-"],
    ]


@pytest.mark.parametrize("width", [40, 80])
def test_long_values_are_folded_to_the_width(width):
    settings = [Settings({"data.root": text}) for text in ("/photos/" * 20, "[red]\x1b[2J")]
    failed = {**ROWS[1], "error": "E: Step 3 had a loss of 1e28, which is a number"}
    text = format_comparison([ROWS[0], failed], settings, width)
    shown = "".join(line[20:].strip() for line in text.splitlines() if line[20:].strip() != "-")
    assert "E:Step3hadalossof1e28,whichisanumber" in "".join(shown.split()).replace("-", "")
    assert max(map(len, text.splitlines())) <= width
    assert "/photos/" in text
    assert "[red]" in text
    assert "\x1b" not in text


def test_names_of_metrics_are_not_markup():
    rows = [{**row, "val/[/b]": 0.5} for row in ROWS]
    assert "val/[/b]" in format_comparison(rows, SETTINGS, 80)

"""The section of a report about checkpoints: which were kept, and which was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnx_alexnet.checkpoints import read_loop
from nnx_alexnet.report.html_parts import note, table
from nnx_alexnet.report.metric_text import metric_text
from nnx_alexnet.support import best_first, numbered_folders

_MAX_ROWS = 20


def read_checkpoints(run_dir: Path) -> dict[int, dict[str, Any]]:
    """Returns the JSON of each readable checkpoint of a run, by its step."""
    found = {}
    try:
        folders = numbered_folders(run_dir / "checkpoints")
    except OSError:
        return {}
    for step, folder in sorted(folders.items()):
        try:
            found[step] = read_loop(folder)
        except Exception:  # damaged, or deleted meanwhile by a run that continues
            continue
    return found


def checkpoint_table(kept: Mapping[int, Mapping[str, Any]], measured: int | None) -> str:
    """Returns the table of the checkpoints.

    Args:
        kept: as `read_checkpoints` returns it.
        measured: the step of the checkpoint whose results the report shows; None for none.
    """
    if not kept:
        return note("The run has kept no checkpoint that can be read.")
    ranking = kept[max(kept)]["ranking"]
    monitor, mode = ranking["monitor"], ranking["mode"]
    values = {
        step: loop["ranking"]["value"]
        for step, loop in kept.items()
        if loop["ranking"]["monitor"] == monitor and loop["ranking"]["value"] is not None
    }
    best = next(iter(best_first(values, mode=mode)), None)
    rows = []
    for step in sorted(kept)[-_MAX_ROWS:]:
        why = [f"best by {monitor}"] if step == best else []
        why += ["latest"] if step == max(kept) else []
        # The run does not record how many checkpoints of each kind it keeps.
        why = why or ["one of the best or the latest" if step in values else "one of the latest"]
        why += ["measured in this report"] if step == measured else []
        value = metric_text(str(monitor), values[step]) if step in values else ""
        passed = kept[step].get("epoch")
        rows.append([f"{step:,}", f"{passed:,}" if isinstance(passed, int) else "", value])
        rows[-1].append(", ".join(why))
    left_out = len(kept) - len(rows)
    text = f"The {left_out:,} earlier checkpoints are left out." if left_out > 0 else ""
    head = ["step", "epochs", str(monitor) if monitor else "", "kept as"]
    return table(head, rows, kind="checkpoints") + (note(text) if text else "")

"""The sections of a report that show examples, and how the data are distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnx_alexnet.report.html_parts import (
    breakable,
    heading,
    note,
    picture,
    table,
)
from nnx_alexnet.report.metric_text import percent
from nnx_alexnet.report.notable import Example
from nnx_alexnet.report.result_sections import split_title
from nnx_alexnet.report.svg_results import MAX_BARS, NUM_PARTS, balance_chart
from nnx_alexnet.support import as_pixels, printable

_SIDE = 104  # of an example on the page, in pixels
_KINDS = {
    "wrong": ("Wrong", "the most confident mistakes"),
    "uncertain": ("Uncertain", "the two most probable classes are closest"),
    "correct": ("Correct", "the most confident prediction of some classes"),
}


def examples(split: str, found: Mapping[str, Sequence[Example]], names: Sequence[str]) -> str:
    """Returns some examples of each kind, and the saliency of a few.

    Args:
        split: the split of the examples.
        found: the examples by kind.
        names: the name of each class.
    """
    parts, mapped = [], []
    for kind, (title, hint) in _KINDS.items():
        tiles = [_tile(each, names) for each in found.get(kind, ())]
        tiles = [tile for tile in tiles if tile]
        if tiles:
            text = heading(title, f"{hint}, {split_title(split)} split")
            parts.append(f'{text}<div class="tiles">{"".join(tiles)}</div>')
        elif kind == "wrong" and not found.get(kind):
            parts.append(heading(title) + note("No example was misclassified."))
        mapped += [each for each in found.get(kind, ()) if each.saliency is not None]
    if not parts:
        return note("The examples are not images.")
    maps = [tile for each in mapped if (tile := _map(each, names))]
    if maps:
        hint = "which pixels the predicted class depends on: the brighter, the more"
        parts.append(f'{heading("Saliency", hint)}<div class="tiles maps">{"".join(maps)}</div>')
    return "".join(parts)


def _tile(example: Example, names: Sequence[str]) -> str:
    image = _image(example)
    if image is None:
        return ""
    return (
        f'<figure class="tile">{picture(image, "", side=_SIDE)}{_caption(example, names)}</figure>'
    )


def _map(example: Example, names: Sequence[str]) -> str:
    import matplotlib as mpl

    image = _image(example)
    if image is None or example.saliency is None:
        return ""
    colors = mpl.colormaps["inferno"](example.saliency)[..., :3]
    heat = picture(np.rint(colors * 255).astype(np.uint8), "Saliency", side=_SIDE)
    pair = f'<div class="pair">{picture(image, "", side=_SIDE)}{heat}</div>'
    return f'<figure class="tile">{pair}{_caption(example, names)}</figure>'


def _image(example: Example) -> NDArray[np.uint8] | None:
    """Returns the image of an example; None if its field `image` holds something else."""
    image = example.fields.get("image")
    if not isinstance(image, np.ndarray):
        return None
    is_image = image.ndim == 3 or (image.ndim == 4 and image.shape[-1] in (1, 2, 3, 4))
    return as_pixels(image[0]) if is_image else None


def _caption(example: Example, names: Sequence[str]) -> str:
    is_right = example.predicted == example.label
    predicted = breakable(printable(names[example.predicted]))
    first = (
        f'<b class="{"right" if is_right else "missed"}">{predicted}</b> '
        f"{percent(example.confidence)}"
    )
    second = f"{breakable(printable(names[example.second]))} {percent(example.second_confidence)}"
    true = "" if is_right else f"<br>true: {breakable(printable(names[example.label]))}"
    return (
        f"<figcaption>{first}<br>{second}{true}<br><span>No. {example.index:,}</span></figcaption>"
    )


def data(about: Mapping[str, Any], counts: Mapping[str, NDArray[Any]], names: Sequence[str]) -> str:
    """Returns the sizes of the splits and how the classes are distributed.

    Args:
        about: the description of the data in a checkpoint.
        counts: the examples of each class, for each split whose labels are known.
        names: the name of each class.
    """
    if not about:
        return note("The run has no checkpoint that describes its data.")
    sizes = about.get("examples")
    sizes = sizes if isinstance(sizes, dict) else {}
    head = ["split", "examples", *(["smallest class", "median", "largest class"] if counts else [])]
    rows = []
    for split, size in sizes.items():
        cells = [escape(str(split)), f"{size:,}" if isinstance(size, int) else "unknown"]
        if split in counts:
            each = counts[split]
            cells += [f"{each.min():,}", f"{np.median(each):,.0f}", f"{each.max():,}"]
        rows.append([*cells, *[""] * (len(head) - len(cells))])
    parts = [table(head, rows), _facts(about)]
    if counts and len(names) <= MAX_BARS:
        key = "".join(
            f'<li><i class="part-{position % NUM_PARTS}"></i>{escape(split)}</li>'
            for position, split in enumerate(counts)
        )
        parts.append(heading("Class balance") + f'<ul class="key">{key}</ul>')
        parts.append(f'<div class="wide">{balance_chart(counts, names)}</div>')
    elif counts:
        parts.append(note(f"The chart of {len(names):,} classes is left out."))
    return "".join(parts)


def _facts(about: Mapping[str, Any]) -> str:
    fields, transform = about.get("fields"), about.get("transform")
    facts = {
        "name": about.get("name"),
        "classes": about.get("num_classes"),
        "batch size": about.get("batch_size"),
        "fields": _listed(fields),
        "transform": _listed(transform),
    }
    rows = [
        [escape(name), breakable(str(value))]
        for name, value in facts.items()
        if value not in (None, "")
    ]
    return table(["property", "value"], rows, kind="facts", texts=2)


def _listed(values: object) -> str | None:
    if not isinstance(values, dict):
        return None
    return ", ".join(f"{name}: {_short(value)}" for name, value in values.items())


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_short, value))})"
    return str(value)

"""The sections of a report for what was measured: scores, classes, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from nnx_alexnet.report.html_parts import (
    bar,
    breakable,
    collapsed,
    figure,
    heading,
    note,
    picture,
    table,
)
from nnx_alexnet.report.measuring import Measurement, Predictions
from nnx_alexnet.report.metric_text import metric_text, percent
from nnx_alexnet.report.ranking_curves import ranking_curves
from nnx_alexnet.report.scores import Ints, Scores, most_confused
from nnx_alexnet.report.svg_chart import MEAN, SERIES, themed
from nnx_alexnet.report.svg_results import (
    MAX_CELLS,
    confusion_chart,
    ranking_chart,
    reliability_chart,
)
from nnx_alexnet.support import printable

_MAX_CURVES = 10  # classes with curves of their own
_MAX_PAIRS = 10
_MAX_CLASSES_BESIDE_TABLE = 25  # with more, the confusion matrix has the full width
_MAX_ROWS = 20  # classes in the table before the collapsed part
_MAX_MORE = 1000  # classes in the collapsed part
_MAX_PIXELS = 1000  # classes of the largest confusion matrix


def overall(measured: Measurement, scores: Mapping[str, Scores]) -> str:
    """Returns the table of the scores of each split, and notes about what was measured.

    Args:
        measured: the checkpoint and its predictions.
        scores: the scores of each split of `measured`.
    """
    splits = {name: measured.splits[name] for name in scores}
    head = ["score", *(split_title(name) for name in scores)]
    rows = [["examples", *(f"{len(split.labels):,}" for split in splits.values())]]
    first = next(iter(scores.values()))
    rows += [
        [escape(name), *(metric_text(name, each.overall[name]) for each in scores.values())]
        for name in first.overall
        if any(np.isfinite(each.overall[name]) for each in scores.values())
    ]
    notes = [f"Measured with the checkpoint of {measured.checkpoint.reason}."]
    if measured.is_average:
        notes.append("Its weights are averages over steps, as in the validations of the run.")
    notes += [
        f"Only the first {len(split.labels):,} examples of the {split_title(name)} split were "
        "measured."
        for name, split in splits.items()
        if not split.is_whole
    ]
    if not any(np.isfinite(each.classes.average_precision).any() for each in scores.values()):
        notes.append("Curves and areas are left out: there are too many classes or examples.")
    notes.append("The loss is the cross-entropy, without label smoothing or weights.")
    notes.append("Scores with (macro) are means over the classes that have examples.")
    return table(head, rows, kind="scores") + note(" ".join(notes))


def split_title(split: str) -> str:
    """Returns how the page names a split: "validation", or the name of a set or of the test split.

    Example:
        >>> from nnx_alexnet.report.result_sections import split_title
        >>> split_title("val"), split_title("val/clean")
        ('validation', 'val/clean')
    """
    return "validation" if split == "val" else split


def main_split(scores: Mapping[str, Scores]) -> str:
    """Returns the split whose details are shown: the test split if it was measured."""
    return "test" if "test" in scores else next(iter(scores))


def classes(split: str, found: Scores, names: Sequence[str]) -> str:
    """Returns the table of classes, the confusion matrix and the most confused pairs.

    Args:
        split: the name of the split.
        found: its scores.
        names: the name of each class.
    """
    return "".join(
        [
            heading("Precision, recall and F1", f"{split_title(split)} split, lowest F1 first"),
            _class_table(found, names),
            *_confusion(found, names),
        ]
    )


def _confusion(found: Scores, names: Sequence[str]) -> list[str]:
    """Returns the matrix and the pairs, side by side if the matrix is small."""
    confusion = found.confusion
    if confusion is None:
        text = f"A matrix of {len(names):,} classes is left out."
        return [heading("Confusion matrix"), note(text)]
    matrix = heading("Confusion matrix", "rows: class, columns: predicted class")
    pairs = heading("Most confused pairs") + _pairs(confusion, names)
    parts = [matrix + _matrix(confusion, names), pairs]
    if len(names) > _MAX_CLASSES_BESIDE_TABLE:
        return parts
    return [f'<div class="two">{"".join(f"<div>{part}</div>" for part in parts)}</div>']


def _class_table(found: Scores, names: Sequence[str]) -> str:
    scores = found.classes
    present = np.flatnonzero(scores.support)
    order = present[np.argsort(scores.f1[present], kind="stable")]
    head = ["class", "precision", "recall", "F1", "avg. precision", "ROC AUC", "examples"]

    def row(k: int) -> list[str]:
        shares = (scores.precision[k], scores.recall[k], scores.f1[k])
        ranked = [
            metric_text("auc", area) for area in (scores.average_precision[k], scores.roc_auc[k])
        ]
        cells = [f"{percent(share)}{bar(np.nan_to_num(share))}" for share in shares]
        return [
            breakable(printable(names[k])), *cells, *ranked, f"{scores.support[k]:,}",
        ]  # fmt: skip

    parts = [table(head, map(row, order[:_MAX_ROWS]), kind="classes")]
    more = order[_MAX_ROWS : _MAX_ROWS + _MAX_MORE]
    if more.size:
        body = table(head, map(row, more), kind="classes")
        parts.append(collapsed(f"The other {len(more):,} of {len(order):,} classes", body))
    left_out = len(order) - _MAX_ROWS - len(more)
    if left_out > 0:
        parts.append(note(f"The {left_out:,} classes with the highest F1 are left out."))
    if missing := len(names) - len(present):
        parts.append(note(f"Classes without examples in this split: {missing:,}."))
    return "".join(parts)


def _matrix(confusion: Ints, names: Sequence[str]) -> str:
    num = len(confusion)
    if num <= MAX_CELLS:
        return f'<div class="wide">{confusion_chart(confusion, names)}</div>'
    if num > _MAX_PIXELS:
        return note(f"A matrix of {num:,} classes is left out.")
    totals = np.maximum(1, confusion.sum(axis=1, keepdims=True))
    ink = np.sqrt(confusion / totals)
    pixels = np.rint(255 * (1 - ink)).astype(np.uint8)
    return picture(pixels, "Confusion matrix", side=max(600, num))


def _pairs(confusion: Ints, names: Sequence[str]) -> str:
    pairs = most_confused(confusion, _MAX_PAIRS)
    if not pairs:
        return note("No example was misclassified.")
    rows = [
        [
            breakable(printable(names[pair.label])),
            breakable(printable(names[pair.predicted])),
            f"{pair.count:,}",
            f"{percent(pair.share)}{bar(pair.share)}",
        ]
        for pair in pairs
    ]
    wrong = int(confusion.sum() - np.trace(confusion))
    shown = sum(pair.count for pair in pairs)
    rest = f"These pairs are {shown:,} of {wrong:,} mistakes." if shown < wrong else ""
    head = ["class", "predicted as", "examples", "share of the class"]
    return table(head, rows, texts=2) + (note(rest) if rest else "")


def confidence(split: str, given: Predictions, found: Scores, names: Sequence[str]) -> str:
    """Returns precision-recall and ROC curves, and the reliability diagram.

    Args:
        split: the name of the split.
        given: its predictions.
        found: their scores.
        names: the name of each class.
    """
    scores = found.classes
    known = np.flatnonzero(np.isfinite(scores.average_precision))
    lowest = known[np.argsort(scores.average_precision[known], kind="stable")][:_MAX_CURVES]
    chosen = np.sort(lowest)
    parts = []
    arguments = given.labels, given.probabilities, scores, chosen
    if pr := ranking_curves("precision-recall", *arguments):
        chart = ranking_chart(
            pr, names, labels=("recall", "precision"), area="average precision",
            number=f"{split}-pr",
        )  # fmt: skip
        parts.append(figure("Precision-recall curves", chart, f"mean area {pr[0].area:.4f}"))
    if curves := ranking_curves("roc", *arguments):
        chart = ranking_chart(
            curves, names, labels=("false positive rate", "true positive rate"),
            area="ROC AUC", number=f"{split}-roc",
        )  # fmt: skip
        parts.append(figure("ROC curves", chart, f"mean area {curves[0].area:.4f}"))
    chart = reliability_chart(found.calibration, number=f"{split}-reliability")
    ece = f"calibration error (ECE) {percent(found.calibration.ece)}; bars: share of examples"
    parts.append(figure("Reliability diagram", chart, ece))
    html = f'<div class="curves">{"".join(parts)}{_key(chosen, names, len(known))}</div>'
    mean, top = found.overall["mean confidence"], found.overall["accuracy"]
    if mean > top:
        trust = "more confident than it is accurate"
    else:
        trust = "less confident than it is accurate"
    shares = f"its mean confidence is {percent(mean)}, its accuracy {percent(top)}."
    return html + note(f"On the {split_title(split)} split, the model is {trust}: {shares}")


def _key(chosen: Ints, names: Sequence[str], num_known: int) -> str:
    """Returns the colors of the curves, which both ranking charts share."""
    if not len(chosen):
        return ""
    entries = [("mean of all classes", MEAN)]
    entries += [
        (printable(names[k]), SERIES[position % len(SERIES)]) for position, k in enumerate(chosen)
    ]
    items = "".join(
        f'<li><i style="background: {themed(color)}"></i>{escape(text)}</li>'
        for text, color in entries
    )
    left_out = ""
    if num_known > len(chosen):
        left_out = note(
            f"Only the {len(chosen)} classes with the lowest average precision have curves; the "
            f"other {num_known - len(chosen):,} count in the mean."
        )
    caption = "<figcaption>Classes in the curves</figcaption>"
    return f'<figure>{caption}<ul class="key">{items}</ul>{left_out}</figure>'

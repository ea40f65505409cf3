import time

import numpy as np
import pytest
from helpers import HOSTILE

from nnx_alexnet.dashboard import images as module
from nnx_alexnet.dashboard.classification_results import Mistake

pytestmark = pytest.mark.charts

WHITE = 255


def test_96_filters_are_drawn_in_6_rows_of_16_as_in_the_paper():
    kernel = np.zeros((11, 11, 3, 96), np.float32)
    sheet = module.filters(kernel)
    grey = (sheet == 128).all(axis=-1)
    starts = [np.flatnonzero(np.diff(grey.any(axis=axis).astype(int)) == 1) for axis in (1, 0)]
    assert [len(each) for each in starts] == [6, 16]
    assert grey.sum() == 96 * 44 * 44


def test_each_filter_has_its_own_scale_with_grey_for_zero():
    kernel = np.zeros((3, 3, 1, 2), np.float32)
    kernel[0, 0, 0], kernel[2, 2, 0] = [1e-6, 50.0], [-1e-6, -25.0]
    values = np.unique(module.filters(kernel))
    assert set(values) == {0, 64, 128, 255}


def test_filters_with_nan_or_many_channels_are_drawn():
    kernel = np.full((3, 3, 64, 7), np.nan, np.float32)
    assert (module.filters(kernel) == 128).any()


def accuracy(counts, names):
    return module.class_accuracy(np.diag(counts), counts.sum(axis=1), names)


def test_names_of_classes_are_not_parsed_as_formulas(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a formula was parsed")

    monkeypatch.setattr("matplotlib.mathtext.MathTextParser.parse", fail)
    for draw in (module.confusion_matrix, accuracy):
        draw(np.eye(2, dtype=int), [r"$\foo$", "$a_1$"])


def colour_at_centre(chart, row, column, num):
    """Returns the colour of a cell, located by the black frame of the matrix."""
    black = (chart == 0).all(axis=-1)
    rows = np.flatnonzero(black.mean(axis=1) > 0.5)
    columns = np.flatnonzero(black.mean(axis=0) > 0.5)
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    y = top + (row + 0.15) * (bottom - top) / num
    x = left + (column + 0.5) * (right - left) / num
    return chart[int(y), int(x)].astype(int)


def test_a_cell_of_the_confusion_matrix_is_darker_for_a_larger_share():
    counts = np.array([[90, 10, 0], [0, 50, 50], [0, 0, 0]])
    chart = module.confusion_matrix(counts, ["a", "b", "c"])
    cells = np.array([[colour_at_centre(chart, r, c, 3).sum() for c in range(3)] for r in (0, 1)])
    assert cells[0, 0] < cells[1, 1] == cells[1, 2] < cells[0, 1] < cells[0, 2]
    assert cells[0, 2] == cells[1, 0] == 3 * WHITE


@pytest.mark.parametrize("num", [1, 2, 10, 26, 300])
def test_charts_of_any_number_of_classes_fit_a_screen(num):
    counts = np.eye(num, dtype=np.int64) * 3
    counts[0, -1] += 1
    names = [f"a class with a rather long name, number {k}" for k in range(num)]
    for draw in (module.confusion_matrix, accuracy):
        height, width, channels = draw(counts, names).shape
        assert channels == 3
        assert 300 <= width <= 1100
        assert height <= 1400


def test_a_class_without_examples_has_no_accuracy():
    few = accuracy(np.array([[2, 0], [0, 0]]), ["there", "not there"])
    both = accuracy(np.array([[2, 0], [0, 1]]), ["there", "there too"])
    assert few.shape[0] < both.shape[0]


def test_a_split_without_mistakes_is_drawn_as_a_sentence():
    assert (module.mistakes([], ["a"]) < 100).any()


def test_a_mistake_shows_its_image():
    image = np.full((8, 8, 1), 77, np.uint8)
    sheet = module.mistakes([Mistake(0.9, 3, 0, 1, image)], ["cat", "dog"])
    assert (sheet == 77).all(axis=-1).sum() == 112 * 112


def test_images_show_any_name():
    image = np.zeros((8, 8, 1))
    names = [HOSTILE, "b" * 100_000]
    mistake = Mistake(confidence=0.5, index=0, label=0, predicted=1, image=image)
    start = time.perf_counter()
    assert module.mistakes([mistake], names).shape[2] == 3
    assert time.perf_counter() - start < 5  # a long name is cut before it is measured
    assert module.confusion_matrix(np.eye(2, dtype=int), names).shape[2] == 3
    assert module.class_accuracy(np.ones(2, int), np.ones(2, int), names).shape[2] == 3


@pytest.mark.parametrize(
    ("names", "caption"),
    [
        (["5", "9"], "predicted 9 (72%),\ntrue 5"),
        (["cat", "dog"], "predicted\ndog (72%),\ntrue cat"),
    ],
)
def test_a_mistake_has_its_prediction_and_its_class_in_words(monkeypatch, names, caption):
    drawn = []
    monkeypatch.setattr(module, "captioned", lambda images, captions: drawn.extend(captions))
    module.mistakes([Mistake(0.72, 3, 0, 1, np.zeros((8, 8, 1)))], names)
    assert drawn == [caption]


def test_the_titles_have_the_accuracy_and_the_meaning_of_the_line(monkeypatch):
    titles = []
    monkeypatch.setattr(module, "_rendered", lambda figure: titles.append(figure.axes[0]))
    counts = np.array([[140, 2], [0, 2]])
    module.confusion_matrix(counts, ["a", "b"])
    module.class_accuracy(np.diag(counts), counts.sum(axis=1), ["a", "b"])
    assert [axes.get_title(loc="left") for axes in titles] == [
        "accuracy 98.6% (142 of 144)", "recall per class; dashed: overall 98.6%",
    ]  # fmt: skip

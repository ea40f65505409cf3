import re

import numpy as np

from nnx_alexnet.report.example_sections import data, examples
from nnx_alexnet.report.notable import Example

NAMES = ["cat", "<dog>"]


def example(index, *, predicted, image=None, saliency=None):
    image = np.zeros((1, 8, 8, 1), np.uint8) if image is None else image
    return Example(index, 1, predicted, 0.75, 0, 0.25, {"image": image}, saliency)


def test_each_example_shows_prediction_and_true_class():
    found = {
        "wrong": [example(1200, predicted=0)],
        "correct": [example(3, predicted=1, saliency=np.ones((16, 16), np.float32))],
    }
    html = examples("test", found, NAMES)
    captions = re.findall("<figcaption>(<b.*?)</figcaption>", html)
    assert captions[0] == (
        '<b class="missed">cat</b> 75.0%<br>cat 25.0%<br>true: &lt;dog&gt;<br>'
        "<span>No. 1,200</span>"
    )
    assert captions[1] == captions[2]  # with its saliency
    assert captions[1].startswith('<b class="right">&lt;dog&gt;</b> 75.0%<br>cat 25.0%<br><span>')
    assert re.findall("<h3>(\\w+)", html) == ["Wrong", "Correct", "Saliency"]
    assert html.count("<img") == 4


def test_examples_without_images_and_without_mistakes_are_noted():
    found = {"wrong": [example(0, predicted=0, image=np.zeros((1, 5)))]}
    assert "The examples are not images." in examples("val", found, NAMES)
    assert "No example was misclassified." in examples("val", {"correct": []}, NAMES)


def test_pictures_are_shown_of_fields_with_up_to_four_channels():
    shapes = {(1, 4, 4): 1, (1, 4, 4, 2): 1, (1, 4, 4, 4): 1, (1, 4, 4, 7): 0, (1, 2, 4, 4, 1): 0}
    for shape, expected in shapes.items():
        found = {"correct": [example(0, predicted=1, image=np.zeros(shape))]}
        assert examples("val", found, NAMES).count("<img") == expected, shape


def test_the_sizes_of_splits_and_classes_are_shown():
    about = {"name": "pets", "examples": {"train": 1500, "val": None}, "num_classes": 2,
             "transform": {"mean": (0.51234, 0.5), "flip": True}}  # fmt: skip
    html = data(about, {"train": np.array([500, 1000])}, NAMES)
    assert "<tr><th>train</th><td>1,500</td><td>500</td><td>750</td><td>1,000</td></tr>" in html
    assert "<th>val</th><td>unknown</td>" in html
    assert "mean: (0.5123, 0.5), flip: True" in html.replace("<wbr>", "")
    assert "500 in train" in html
    many = np.ones(400, int)
    assert "The chart of 400 classes is left out." in data(about, {"train": many}, ["x"] * 400)
    assert "no checkpoint that describes its data" in data({}, {}, [])

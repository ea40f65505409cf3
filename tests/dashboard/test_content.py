"""What TensorBoard shows of a run, without a run: the parts are written to a fake writer."""

import jax
import numpy as np
import pytest
from helpers import HOSTILE, event_values
from tensorboard.plugins.custom_scalar import layout_pb2

from nnx_alexnet.dashboard.classification_results import ClassificationResults
from nnx_alexnet.dashboard.content import (
    as_code,
    begin_session,
    end_session,
    first_kernel,
    norm,
    open_writer,
    samples,
    write_columns,
    write_filters,
    write_histograms,
    write_inputs,
    write_results,
    write_texts,
)
from nnx_alexnet.data import DataModule, ImageTransform


class FakeWriter:
    """Keeps what is written; like CLU's writers, it has neither sessions nor charts."""

    def __init__(self):
        self.written = {}

    def write_hparams(self, hparams):
        self.written["hparams"] = hparams

    def write_images(self, step, images):
        self.written |= {(step, tag): image for tag, image in images.items()}

    write_texts = write_histograms = write_images


def data_of(images, labels, **arguments):
    split = images, labels
    return DataModule(split, split, batch_size=4, **arguments)


NUMBERS = np.arange(16, dtype=np.uint8).repeat(64).reshape(16, 8, 8, 1)  # images of one grey each
LABELS = (np.arange(16) % 2).astype(np.int32)
NAMES = {"train/loss", "train/loss_step", "train/accuracy", "val/loss", "val/accuracy", "lr"}
CONFIG = {"seed": 0, "data": {"name": "digits", "std": [1.0], "more": {}}, 3: {"x": True}}


def test_other_writers_get_the_flat_configuration():
    writer = FakeWriter()
    begin_session(writer, config=CONFIG, metric_names=NAMES, first_step=0)
    write_columns(writer, config=CONFIG, metric_names=NAMES)
    end_session(writer, success=True)
    assert writer.written == {"hparams": {"seed": 0, "data.name": "digits", "3.x": True}}


def test_validation_sets_share_a_chart(tmp_path):
    names = ["train/loss", "train/loss_step", "val/b/loss", "val/a/loss", "val/a/auroc", "lr"]
    names += ["val/b/auroc", "val/a/only", "train/gap", "val/gap"]
    names += ["train/f1", "train/f1/loss", "val/a/f1", "val/a/f1/loss"]  # of a class "loss"
    writer = open_writer(tmp_path)
    begin_session(writer, config=CONFIG, metric_names=names, first_step=0)
    writer.close()
    content = event_values(tmp_path, "custom_scalars__config__")[0][1]
    charts = layout_pb2.Layout.FromString(content).category[0].chart
    assert [[*chart.multiline.tag] for chart in charts] == [
        ["^train/loss$", "^val/a/loss$", "^val/b/loss$"],
        ["^val/a/auroc$", "^val/b/auroc$"],
        ["^train/f1$", "^val/a/f1$"],
        ["^train/gap$", "^val/gap$"],
    ]


@pytest.mark.parametrize("first_step", [0, 5])
def test_only_a_new_run_gets_charts(tmp_path, first_step):
    writer = open_writer(tmp_path)
    begin_session(writer, config=CONFIG, metric_names=NAMES, first_step=first_step)
    write_columns(writer, config=CONFIG, metric_names=NAMES)
    end_session(writer, success=True)
    writer.close()
    assert len(event_values(tmp_path, "custom_scalars__config__")) == (first_step == 0)
    for tag in ("session_start_info", "session_end_info", "experiment"):
        assert len(event_values(tmp_path, f"_hparams_/{tag}")) == 1


def test_texts_have_the_configuration_and_the_layers():
    writer = FakeWriter()
    write_texts(writer, step=0, config={"seed": 0}, summary="layer  type\n")
    assert writer.written == {
        (0, "config"): "```\nseed: 0\n```",
        (0, "model/summary"): "```\nlayer  type\n```",
    }


def test_a_code_block_is_longer_than_any_fence_in_its_text():
    assert as_code("a  b\n") == "```\na  b\n```"
    assert as_code("a ```` b") == "`````\na ```` b\n`````"


def test_the_images_of_a_batch_are_shown_before_normalization_and_without_padding():
    writer = FakeWriter()
    transform = ImageTransform(8, mean=(0.5,), std=(0.25,))
    data = data_of(NUMBERS, LABELS, transform=transform, class_names=("even", "odd"))
    batch = {"image": NUMBERS[:4] * 16, "label": LABELS[:4], "index": np.arange(4),
             "mask": np.array([True, True, True, False])}  # fmt: skip
    write_inputs(writer, step=3, epoch=0, batch=batch, data=data, seed=0)
    ((key, sheet),) = writer.written.items()
    assert key == (3, "train/images")
    greys, counts = np.unique(sheet[..., 0], return_counts=True)
    assert dict(zip(greys.tolist(), counts.tolist(), strict=True))[32] >= 112 * 112
    assert 48 not in greys[counts >= 112 * 112]  # the padding


def test_images_without_a_label_have_no_caption():
    sheets = []
    for fields in ({}, {"label": np.full(4, np.nan, np.float32).reshape(4, 1, 1)}):
        writer = FakeWriter()
        batch = {"image": NUMBERS[:4] * 16, "index": np.arange(4), "mask": np.ones(4, bool)}
        data = data_of(NUMBERS, LABELS)
        write_inputs(writer, step=3, epoch=0, batch=batch | fields, data=data, seed=0)
        sheets.append(writer.written[3, "train/images"])
    np.testing.assert_array_equal(*sheets)


def test_batches_without_images_are_not_shown():
    writer = FakeWriter()
    batch = {"tokens": {"ids": np.zeros((4, 9), np.int32)}, "index": np.arange(4),
             "mask": np.ones(4, bool)}  # fmt: skip
    write_inputs(writer, step=3, epoch=0, batch=batch, data=data_of(NUMBERS, LABELS), seed=0)
    assert writer.written == {}


def test_images_that_a_function_makes_from_other_fields_are_shown():
    def spectrogram(batch):
        return {"image": batch["sound"].reshape(-1, 8, 8, 1)}

    sound = np.random.default_rng(0).random((32, 64)).astype(np.float32)
    data = DataModule({"sound": sound}, batch_size=16, transform=spectrogram)
    writer = FakeWriter()
    batch = {"sound": sound[:4], "index": np.arange(4), "mask": np.ones(4, bool)}
    write_inputs(writer, step=3, epoch=0, batch=batch, data=data, seed=0)
    assert [*writer.written] == [(3, "train/images")]


def test_vectors_are_not_shown_as_images():
    writer = FakeWriter()
    vectors = np.zeros((16, 5), np.float32)
    batch = {"image": vectors[:4], "label": LABELS[:4], "index": np.arange(4),
             "mask": np.ones(4, bool)}  # fmt: skip
    write_inputs(writer, step=3, epoch=0, batch=batch, data=data_of(vectors, LABELS), seed=0)
    assert writer.written == {}


def results_of_one_mistake():
    results = ClassificationResults()
    outputs = {"logits": jax.numpy.array([[2.0, 0.0], [3.0, 1.0]]), "labels": LABELS[:2]}
    batch = {"image": NUMBERS[:2], "mask": np.ones(2, bool), "index": np.arange(2)}
    results.add(outputs, batch)
    results.finish()
    return results


@pytest.mark.charts
@pytest.mark.parametrize(
    "tags", [set(), {"val/mistakes"}, {"val/confusion_matrix", "val/class_accuracy", "other"}]
)
def test_only_the_requested_results_are_drawn(tags):
    writer = FakeWriter()
    results = results_of_one_mistake()
    write_results(writer, step=8, results=results, class_names=None, tags=tags)
    assert {tag for _, tag in writer.written} == tags - {"other"}


def test_results_that_are_no_classification_write_nothing():
    writer = FakeWriter()
    results = ClassificationResults()
    write_results(writer, step=8, results=results, class_names=None, tags={"val/mistakes"})
    assert writer.written == {}


def test_filters_and_histograms_are_written_at_their_step():
    writer = FakeWriter()
    write_filters(writer, step=8, kernel=jax.numpy.ones((3, 3, 1, 2)))
    write_histograms(writer, step=8, arrays={"parameters/a": jax.numpy.arange(3)})
    assert set(writer.written) == {(8, "model/filters"), (8, "parameters/a")}
    assert writer.written[8, "parameters/a"].tolist() == [0, 1, 2]


def test_the_norm_is_that_of_all_values():
    arrays = {"a": jax.numpy.array([2, 3], "bfloat16"), "b": jax.numpy.array([[6j]])}
    assert float(norm(arrays)) == 7.0
    assert float(norm({})) == 0.0


def test_a_large_array_is_sampled_over_all_of_its_columns():
    columns = jax.numpy.broadcast_to(jax.numpy.arange(1024.0), (2048, 1024))
    sampled = np.asarray(samples({"a": columns})["a"])
    assert sampled.size <= 2**18
    assert len(np.unique(sampled)) == 1024


def test_the_first_layer_has_the_largest_kernel_for_the_images():
    parameters = {
        "depthwise/kernel": np.zeros((3, 3, 1, 8)),
        "stem/kernel": np.ones((5, 5, 1, 8)),
        "dense/kernel": np.zeros((8, 4)),
    }
    assert first_kernel(parameters, (32, 32, 1)).shape == (5, 5, 1, 8)
    assert first_kernel(parameters, (32, 32, 3)) is None
    assert first_kernel(parameters, (8,)) is None


@pytest.mark.filterwarnings("ignore:html5lib")
@pytest.mark.parametrize(
    "text",
    [
        "a\n```\n# injected\n[x](http://evil)", "`\x02`\x02`\n# injected",
        "a ```` b\n~~~\n# injected", "x\r```\r# injected", "```", HOSTILE,
    ],
)  # fmt: skip
def test_text_stays_inside_its_code_block(text):
    from tensorboard.plugin_util import markdown_to_safe_html

    page = markdown_to_safe_html(as_code(text))
    assert page.startswith("<pre><code>")
    assert page.endswith("</code></pre>")
    assert page.count("<") == 4

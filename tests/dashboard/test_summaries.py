"""The summaries that TensorBoard reads: their values, tags and plugins."""

import io

import ml_dtypes
import numpy as np
import pytest
from PIL import Image
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

from nnx_alexnet.dashboard.summaries import (
    columns_summary,
    histogram_summary,
    image_summary,
    layout_summary,
    scalar_summary,
    session_end_summary,
    session_start_summary,
    text_summary,
    utf8,
)


def value_of(summary, tag):
    """The only value of a tag."""
    (value,) = (value for value in summary.value if value.tag == tag)
    return value


def histogram_of(values, num_buckets=None):
    return value_of(histogram_summary({"a": values}, num_buckets), "z_a").histo


def hparams_data(summary, tag):
    (value,) = (value for value in summary.value if value.tag == tag)
    return plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)


def test_scalars_of_any_float_type_are_kept_exactly():
    scalars = {"a": 0.5, "b": np.float32(0.25), "c": ml_dtypes.bfloat16(0.125), "d": np.array(2)}
    summary = scalar_summary(scalars)
    assert {value.tag: value.simple_value for value in summary.value} == {
        "x_a": 0.5, "x_b": 0.25, "x_c": 0.125, "x_d": 2.0,
    }  # fmt: skip


def test_scalars_that_are_not_finite_are_kept():
    summary = scalar_summary({"a": float("nan"), "b": float("inf")})
    assert np.isnan(value_of(summary, "x_a").simple_value)
    assert np.isposinf(value_of(summary, "x_b").simple_value)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_uint8_images_are_kept_exactly_each_under_its_own_tag(channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, channels)).astype(np.uint8)
    summary = image_summary({"conv1": images})
    for number, expected in enumerate(images):
        image = value_of(summary, f"y_conv1/{number}").image
        assert (image.width, image.height, image.colorspace) == (7, 5, channels)
        decoded = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
        np.testing.assert_array_equal(decoded.reshape(expected.shape), expected)


def test_float_images_are_clipped_and_a_single_image_is_accepted():
    array = np.array([[-1.0, 0.0, 0.5, 1.0, 2.0, np.nan]], np.float32)[..., None]
    image = value_of(image_summary({"a": array}), "y_a").image
    pixels = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
    assert pixels.tolist() == [[0, 0, 128, 255, 255, 0]]


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\)"),
        (np.zeros((1, 4, 4, 5), np.uint8), r"shape \(1, 4, 4, 5\)"),
        (np.zeros((1, 4, 4, 3), np.int32), "dtype int32"),
        (np.zeros((1, 4, 4, 3), bool), "dtype bool"),
    ],
)
def test_images_of_another_shape_or_dtype_are_refused(value, match):
    with pytest.raises(ValueError, match=match):
        image_summary({"a": value})


def test_texts_are_utf8():
    summary = text_summary({"summary": "| a | b |\n\u00e9"})
    value = value_of(summary, "summary")
    assert make_ndarray(value.tensor).item().decode() == "| a | b |\n\u00e9"
    assert value.metadata.plugin_data.plugin_name == "text"
    assert utf8("\u00e9\udcff") == "\u00e9\\udcff"


def test_histograms_are_those_of_the_finite_values():
    values = np.random.default_rng(0).normal(size=(10, 100)).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    finite = values[np.isfinite(values)].astype(np.float64)
    for num, histogram in [(30, histogram_of(values)), (7, histogram_of(values, {"a": 7}))]:
        counts, edges = np.histogram(finite, num)
        assert [*histogram.bucket] == counts.tolist()
        assert [*histogram.bucket_limit] == edges[1:].tolist()
        assert (histogram.num, histogram.min) == (997, finite.min())
        assert (histogram.max, histogram.sum) == (finite.max(), pytest.approx(finite.sum()))
        assert histogram.sum_squares == pytest.approx((finite**2).sum())


def test_scalars_and_histograms_are_those_that_torch_writes():
    from torch.utils.tensorboard import summary as torch_summaries

    ours = scalar_summary({"train/loss": 0.5})
    assert ours == torch_summaries.scalar("train/loss", 0.5)
    values = np.array([0.0, 1, 1, 4])
    (theirs,) = torch_summaries.histogram("z_a", values, bins=4).value
    theirs, ours = theirs.histo, histogram_of(values, {"a": 4})
    for name in ("min", "max", "num", "sum", "sum_squares"):
        assert getattr(ours, name) == getattr(theirs, name)
    # torch adds an empty bucket that ends at the smallest value.
    assert [*ours.bucket] == [*theirs.bucket][1:]
    assert [*ours.bucket_limit] == [*theirs.bucket_limit][1:]


@pytest.mark.parametrize("values", [[], [np.nan], [3.0, 3.0]])
def test_histograms_of_no_value_and_of_one_value_are_finite(values):
    histogram = histogram_of(np.asarray(values))
    assert sum(histogram.bucket) == histogram.num == np.isfinite(values).sum()
    assert np.isfinite([histogram.min, histogram.max, *histogram.bucket_limit]).all()


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        (np.array([1, 2], ml_dtypes.bfloat16), (1, 2)),
        (np.arange(4), (0, 3)),
        (np.array([3 + 4j, 0]), (0, 5)),
    ],
)
def test_histograms_of_other_types_cover_their_values(values, edges):
    histogram = histogram_of(values)
    assert (histogram.min, histogram.max) == edges
    assert histogram.num == sum(histogram.bucket) == len(values)


def test_a_session_has_its_hyperparameters():
    hparams = {
        "seed": 3,
        "rate": np.float32(0.5),
        "shuffle": True,
        "name": "digits",
        "none": None,
        "limit": float("inf"),
    }
    summary = session_start_summary("mine/version_0", hparams)
    start = hparams_data(summary, metadata.SESSION_START_INFO_TAG).session_start_info
    values = {
        name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()
    }
    assert values == {**hparams, "rate": 0.5, "none": "None", "limit": "inf"}
    assert type(values["shuffle"]) is bool


def test_columns_have_types_and_metrics_in_order():
    hparams = {"limit": float("inf"), "name": "digits", "seed": 3, "shuffle": True}
    summary = columns_summary(hparams, ["val/loss", "lr"], ["seed"])
    experiment = hparams_data(summary, metadata.EXPERIMENT_TAG).experiment
    metrics = [(info.name.tag, info.display_name) for info in experiment.metric_infos]
    assert metrics == [("val/loss", "val/loss"), ("x_lr", "lr")]
    assert {info.name: info.type for info in experiment.hparam_infos} == {
        "limit": api_pb2.DATA_TYPE_STRING, "name": api_pb2.DATA_TYPE_STRING,
        "seed": api_pb2.DATA_TYPE_FLOAT64, "shuffle": api_pb2.DATA_TYPE_BOOL,
    }  # fmt: skip
    assert [info.name for info in experiment.hparam_infos if info.differs] == ["seed"]


@pytest.mark.parametrize(
    ("success", "status"), [(True, api_pb2.STATUS_SUCCESS), (False, api_pb2.STATUS_FAILURE)]
)
def test_the_end_of_a_session_has_its_status(success, status):
    summary = session_end_summary(success)
    end = hparams_data(summary, metadata.SESSION_END_INFO_TAG).session_end_info
    assert end.status == status


def test_a_chart_matches_exactly_its_scalars():
    summary = layout_summary({"loss": ["train/loss", "val/loss"], "a.b": ["a.b"]})
    content = make_ndarray(value_of(summary, "custom_scalars__config__").tensor)
    (category,) = layout_pb2.Layout.FromString(content.item()).category
    assert {chart.title: [*chart.multiline.tag] for chart in category.chart} == {
        "loss": ["^train/loss$", "^val/loss$"], "a.b": [r"^x_a\.b$"],
    }  # fmt: skip

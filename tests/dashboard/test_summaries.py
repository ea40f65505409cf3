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
    """The array of a tag."""
    (value,) = (value for value in summary.value if value.tag == tag)
    return make_ndarray(value.tensor)


def plugins(summary):
    return {value.tag: value.metadata.plugin_data.plugin_name for value in summary.value}


def hparams_data(summary, tag):
    (value,) = (value for value in summary.value if value.tag == tag)
    return plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)


def test_scalars_of_any_float_type_are_kept_exactly():
    scalars = {"a": 0.5, "b": np.float32(0.25), "c": ml_dtypes.bfloat16(0.125), "d": np.array(2)}
    summary = scalar_summary(scalars)
    assert {tag: value_of(summary, tag).item() for tag in scalars} == {
        "a": 0.5, "b": 0.25, "c": 0.125, "d": 2.0,
    }  # fmt: skip
    assert plugins(summary) == dict.fromkeys(scalars, "scalars")


def test_scalars_that_are_not_finite_are_kept():
    summary = scalar_summary({"a": float("nan"), "b": float("inf")})
    assert np.isnan(value_of(summary, "a"))
    assert np.isposinf(value_of(summary, "b"))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_uint8_images_are_kept_exactly(channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, channels)).astype(np.uint8)
    summary = image_summary({"conv1": images})
    width, height, *pngs = value_of(summary, "conv1")
    assert (width, height) == (b"7", b"5")
    decoded = [np.asarray(Image.open(io.BytesIO(png))) for png in pngs]
    np.testing.assert_array_equal(np.stack(decoded).reshape(images.shape), images)
    assert plugins(summary) == {"conv1": "images"}


def test_float_images_are_clipped_and_a_single_image_is_accepted():
    image = np.array([[-1.0, 0.0, 0.5, 1.0, 2.0, np.nan]], np.float32)[..., None]
    strings = value_of(image_summary({"a": image}), "a")
    pixels = np.asarray(Image.open(io.BytesIO(strings[2])))
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
    assert value_of(summary, "summary").item().decode() == "| a | b |\n\u00e9"
    assert plugins(summary) == {"summary": "text"}
    assert utf8("\u00e9\udcff") == "\u00e9\\udcff"


def test_histograms_count_each_finite_value_once():
    values = np.random.default_rng(0).normal(size=(10, 100)).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    summary = histogram_summary({"a": values, "b": values}, {"b": 7})
    a, b = value_of(summary, "a"), value_of(summary, "b")
    assert (a.shape, b.shape) == ((30, 3), (7, 3))
    finite = values[np.isfinite(values)]
    assert a[:, 2].sum() == b[:, 2].sum() == finite.size == 997
    assert (a[0, 0], a[-1, 1]) == pytest.approx((finite.min(), finite.max()))
    assert (a[1:, 0] == a[:-1, 1]).all()
    assert plugins(summary) == {"a": "histograms", "b": "histograms"}


@pytest.mark.parametrize("values", [[], [np.nan], [3.0, 3.0]])
def test_histograms_of_no_value_and_of_one_value_are_finite(values):
    table = value_of(histogram_summary({"a": np.asarray(values)}), "a")
    assert table[:, 2].sum() == np.isfinite(values).sum()
    assert np.isfinite(table).all()


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        (np.array([1, 2], ml_dtypes.bfloat16), (1, 2)),
        (np.arange(4), (0, 3)),
        (np.array([3 + 4j, 0]), (0, 5)),
    ],
)
def test_histograms_of_other_types_cover_their_values(values, edges):
    table = value_of(histogram_summary({"a": values}), "a")
    assert (table[0, 0], table[-1, 1]) == edges
    assert table[:, 2].sum() == len(values)


def test_a_session_has_its_hyperparameters_and_the_metrics_to_show():
    hparams = {
        "seed": 3,
        "rate": np.float32(0.5),
        "shuffle": True,
        "name": "digits",
        "none": None,
        "limit": float("inf"),
    }
    summary = session_start_summary("mine/version_0", hparams, {"val/loss", "val/accuracy"})
    start = hparams_data(summary, metadata.SESSION_START_INFO_TAG).session_start_info
    values = {
        name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()
    }
    assert values == {**hparams, "rate": 0.5, "none": "None", "limit": "inf"}
    assert type(values["shuffle"]) is bool
    experiment = hparams_data(summary, metadata.EXPERIMENT_TAG).experiment
    assert [info.name.tag for info in experiment.metric_infos] == ["val/accuracy", "val/loss"]
    types = {info.name: info.type for info in experiment.hparam_infos}
    assert types["seed"] == api_pb2.DATA_TYPE_FLOAT64
    assert types["shuffle"] == api_pb2.DATA_TYPE_BOOL
    assert types["limit"] == types["name"] == api_pb2.DATA_TYPE_STRING


@pytest.mark.parametrize(
    ("success", "status"), [(True, api_pb2.STATUS_SUCCESS), (False, api_pb2.STATUS_FAILURE)]
)
def test_the_end_of_a_session_has_its_status(success, status):
    summary = session_end_summary(success)
    end = hparams_data(summary, metadata.SESSION_END_INFO_TAG).session_end_info
    assert end.status == status


def test_a_chart_matches_exactly_its_scalars():
    summary = layout_summary({"loss": ["train/loss", "val/loss"], "a.b": ["a.b"]})
    content = value_of(summary, "custom_scalars__config__")
    (category,) = layout_pb2.Layout.FromString(content.item()).category
    assert {chart.title: [*chart.multiline.tag] for chart in category.chart} == {
        "loss": ["^train/loss$", "^val/loss$"], "a.b": [r"^a\.b$"],
    }  # fmt: skip

"""Builds the summaries of TensorBoard events from plain values, without TensorFlow.

Scalars, images and histograms have the form that PyTorch's `SummaryWriter` writes, which every
program that reads event files understands.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from tensorboard.compat.proto.histogram_pb2 import HistogramProto
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util.tensor_util import make_tensor_proto

from nnx_alexnet.dashboard.tags import histogram_tag, image_tag, scalar_tag

_CHANNELS = (1, 2, 3, 4)  # grey; grey and alpha; RGB; RGBA
_NUM_BUCKETS = 30  # as in TensorBoard's own histograms


def scalar_summary(scalars: Mapping[str, Any]) -> Summary:
    """Returns a summary of numbers or arrays without dimensions; NaN and infinity are kept."""
    summary = Summary()
    for name, value in scalars.items():
        summary.value.add(tag=scalar_tag(utf8(name)), simple_value=float(value))
    return summary


def image_summary(images: Mapping[str, ArrayLike]) -> Summary:
    """Returns a summary of images; each of several images of one name has its own tag.

    Args:
        images: see `TensorBoardWriter.write_images`.

    Raises:
        ValueError: an array has another shape or dtype.
    """
    summary = Summary()
    for name, value in images.items():
        pixels, tag = _pixels(name, value), image_tag(utf8(name))
        for number, each in enumerate(pixels):
            height, width, channels = each.shape
            image = Summary.Image(
                height=height, width=width, colorspace=channels, encoded_image_string=_png(each)
            )
            summary.value.add(tag=tag if len(pixels) == 1 else f"{tag}/{number}", image=image)
    return summary


def text_summary(texts: Mapping[str, str]) -> Summary:
    """Returns a summary of texts, which TensorBoard shows as Markdown."""
    summary = Summary()
    for name, text in texts.items():
        summary.MergeFrom(text_pb(utf8(name), utf8(text)))
    return summary


def histogram_summary(
    arrays: Mapping[str, ArrayLike], num_buckets: Mapping[str, int] | None = None
) -> Summary:
    """Returns a summary of the distribution of each array's finite values.

    Args:
        arrays: name to an array of any shape.
        num_buckets: name to number of buckets; 30 for other names.
    """
    summary = Summary()
    for name, array in arrays.items():
        num = (num_buckets or {}).get(name, _NUM_BUCKETS)
        summary.value.add(tag=histogram_tag(utf8(name)), histo=_histogram(array, num))
    return summary


def session_start_summary(run: str, hparams: Mapping[str, Any]) -> Summary:
    """Returns the summary that starts a session of the HParams tab.

    Args:
        run: identifies the session.
        hparams: see `TensorBoardWriter.write_hparams`.
    """
    values = {utf8(name): _hparam(value) for name, value in hparams.items()}
    return hparams_pb(values, trial_id=run)


def columns_summary(
    hparams: Mapping[str, Any], metric_names: Iterable[str], first: Collection[str] = ()
) -> Summary:
    """Returns the summary that lists the columns of the HParams tab.

    Args:
        hparams: see `TensorBoardWriter.write_hparams`.
        metric_names: the scalars whose last values are shown, in this order.
        first: the hyperparameters to list first.
    """
    experiment = api_pb2.Experiment(
        hparam_infos=[
            # TensorBoard sorts the columns by name, after those that are known to differ.
            api_pb2.HParamInfo(
                name=utf8(name), type=_hparam_type(_hparam(value)), differs=name in first
            )
            for name, value in hparams.items()
        ],
        metric_infos=[
            api_pb2.MetricInfo(
                name=api_pb2.MetricName(tag=scalar_tag(utf8(name))), display_name=utf8(name)
            )
            for name in metric_names
        ],
        time_created_secs=time.time(),
    )
    data = plugin_data_pb2.HParamsPluginData(experiment=experiment)
    return _hparams_summary(hparams_metadata.EXPERIMENT_TAG, data)


def session_end_summary(success: bool) -> Summary:
    """Returns the summary that ends a session of the HParams tab."""
    end = plugin_data_pb2.SessionEndInfo(
        status=api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE,
        end_time_secs=time.time(),
    )
    data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
    return _hparams_summary(hparams_metadata.SESSION_END_INFO_TAG, data)


def layout_summary(charts: Mapping[str, Iterable[str]]) -> Summary:
    """Returns the summary that lists the charts of the Custom Scalars tab.

    Args:
        charts: chart title to the names of its scalars.
    """
    drawn = [
        layout_pb2.Chart(
            title=utf8(title),
            multiline=layout_pb2.MultilineChartContent(
                tag=[f"^{re.escape(scalar_tag(utf8(name)))}$" for name in names]
            ),
        )
        for title, names in charts.items()
    ]
    category = layout_pb2.Category(title="training and validation", chart=drawn)
    layout = layout_pb2.Layout(category=[category])
    summary = Summary()
    summary.value.add(
        tag=layout_metadata.CONFIG_SUMMARY_TAG,
        metadata=layout_metadata.create_summary_metadata(),
        tensor=make_tensor_proto(layout.SerializeToString(), dtype=np.object_),
    )
    return summary


def utf8(text: str) -> str:
    """Returns text with escaped lone surrogates, which occur in file names that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _pixels(name: str, value: ArrayLike) -> NDArray[np.uint8]:
    array = np.asarray(value)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[-1] not in _CHANNELS:
        raise ValueError(
            f"`images[{name!r}]` has the shape {np.shape(value)}; it must be [N, H, W, C] or "
            "[H, W, C] with 1, 2, 3 or 4 channels."
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "iub":
        raise ValueError(
            f"`images[{name!r}]` has the dtype {array.dtype}; it must be uint8, or float from 0 "
            "to 1."
        )
    unit = np.clip(np.nan_to_num(array.astype(np.float32)), 0, 1)
    return np.round(unit * 255).astype(np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    channels = pixels.shape[-1]
    encoded = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(encoded, format="png")
    return encoded.getvalue()


def _histogram(array: ArrayLike, num_buckets: int) -> HistogramProto:
    values = np.asarray(array)
    if np.iscomplexobj(values):
        values = np.abs(values)
    values = values.astype(np.float64).ravel()
    values = values[np.isfinite(values)]
    if not values.size:
        return HistogramProto(bucket_limit=[0.0], bucket=[0.0])
    counts, edges = np.histogram(values, bins=num_buckets)
    return HistogramProto(
        min=values.min(),
        max=values.max(),
        num=values.size,
        sum=values.sum(),
        sum_squares=np.square(values).sum(),
        bucket_limit=edges[1:],
        bucket=counts,
    )


def _hparam(value: Any) -> bool | float | str:
    if isinstance(value, np.generic):
        value = value.item()
    # TensorBoard sends numbers to the browser as JSON, which has no NaN and no infinity.
    if isinstance(value, bool) or (isinstance(value, int | float) and np.isfinite(value)):
        return value
    return utf8(str(value))


def _hparam_type(value: bool | float | str) -> Any:
    if isinstance(value, bool):
        return api_pb2.DATA_TYPE_BOOL
    return api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64


def _hparams_summary(tag: str, data: plugin_data_pb2.HParamsPluginData) -> Summary:
    summary = Summary()
    summary.value.add(
        tag=tag,
        metadata=hparams_metadata.create_summary_metadata(data),
        tensor=hparams_metadata.NULL_TENSOR,
    )
    return summary

import inspect

import pytest

from nnx_alexnet.dashboard.event_writer import TensorBoardWriter
from nnx_alexnet.dashboard.metric_writer import MetricWriter

METHODS = sorted(name for name in vars(MetricWriter) if name.startswith(("write_", "flush", "cl")))


@pytest.mark.parametrize("name", METHODS)
def test_the_tensorboard_writer_can_be_called_like_any_metric_writer(name):
    expected = inspect.signature(inspect.getattr_static(MetricWriter, name)).parameters
    ours = inspect.signature(inspect.getattr_static(TensorBoardWriter, name)).parameters
    assert [*ours][: len(expected)] == [*expected]
    assert all(
        ours[each].default is not inspect.Parameter.empty for each in set(ours) - set(expected)
    )

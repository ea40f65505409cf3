"""AlexNet, and what the trainer needs to know of any `nnx.Module`: its modes and its summary."""

from nnx_alexnet.models.alexnet import AlexNet as AlexNet
from nnx_alexnet.models.modes import define as define
from nnx_alexnet.models.modes import frozen_layers as frozen_layers
from nnx_alexnet.models.modes import tell_mode as tell_mode
from nnx_alexnet.models.summary import readable_size as readable_size
from nnx_alexnet.models.summary import summarize as summarize

__all__ = ["AlexNet"]

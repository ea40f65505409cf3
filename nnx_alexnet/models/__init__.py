"""Contains AlexNet, and handles the modes, arguments and summary of any `nnx.Module`."""

from nnx_alexnet.models.alexnet import AlexNet as AlexNet
from nnx_alexnet.models.call_arguments import drop_rngs as drop_rngs
from nnx_alexnet.models.call_arguments import missing_arguments as missing_arguments
from nnx_alexnet.models.call_arguments import pass_arguments as pass_arguments
from nnx_alexnet.models.call_arguments import takes_rngs as takes_rngs
from nnx_alexnet.models.modes import define as define
from nnx_alexnet.models.modes import frozen_layers as frozen_layers
from nnx_alexnet.models.summary import Calls as Calls
from nnx_alexnet.models.summary import layer_table as layer_table
from nnx_alexnet.models.summary import readable_size as readable_size
from nnx_alexnet.models.summary import record_calls as record_calls
from nnx_alexnet.models.summary import recorded_calls as recorded_calls
from nnx_alexnet.models.summary import summarize as summarize

__all__ = ["AlexNet"]

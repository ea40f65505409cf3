"""A PyTorch-Lightning-style trainer for Flax NNX, with the AlexNet it was made for."""

from nnx_alexnet.callbacks import Callback as Callback
from nnx_alexnet.checkpoints import load_checkpoint as load_checkpoint
from nnx_alexnet.data import DataModule as DataModule
from nnx_alexnet.data import load_data as load_data
from nnx_alexnet.devices import initialize_distributed as initialize_distributed
from nnx_alexnet.models import AlexNet as AlexNet
from nnx_alexnet.models import summarize as summarize
from nnx_alexnet.optimizers import create_optimizer as create_optimizer
from nnx_alexnet.task import Classification as Classification
from nnx_alexnet.task import Task as Task
from nnx_alexnet.trainer import Trainer as Trainer
from nnx_alexnet.version import __version__ as __version__

__all__ = [
    "AlexNet",
    "Callback",
    "Classification",
    "DataModule",
    "Task",
    "Trainer",
    "create_optimizer",
    "initialize_distributed",
    "load_checkpoint",
    "load_data",
    "summarize",
]

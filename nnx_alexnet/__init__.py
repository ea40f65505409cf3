"""A PyTorch-Lightning-style trainer for Flax NNX, with the AlexNet it was made for.

The names are imported on first use, so that the command can print its help without JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnx_alexnet.version import __version__ as __version__

if TYPE_CHECKING:
    from nnx_alexnet.callbacks import Callback as Callback
    from nnx_alexnet.checkpoints import load_checkpoint as load_checkpoint
    from nnx_alexnet.checkpoints import load_model as load_model
    from nnx_alexnet.data import DataModule as DataModule
    from nnx_alexnet.data import load_data as load_data
    from nnx_alexnet.devices import initialize_distributed as initialize_distributed
    from nnx_alexnet.models import AlexNet as AlexNet
    from nnx_alexnet.models import summarize as summarize
    from nnx_alexnet.optimizers import create_optimizer as create_optimizer
    from nnx_alexnet.task import BinaryClassification as BinaryClassification
    from nnx_alexnet.task import Classification as Classification
    from nnx_alexnet.task import MultiLabelClassification as MultiLabelClassification
    from nnx_alexnet.task import Task as Task
    from nnx_alexnet.trainer import Trainer as Trainer

__all__ = [
    "AlexNet",
    "BinaryClassification",
    "Callback",
    "Classification",
    "DataModule",
    "MultiLabelClassification",
    "Task",
    "Trainer",
    "create_optimizer",
    "initialize_distributed",
    "load_checkpoint",
    "load_data",
    "load_model",
    "summarize",
]

_PACKAGES = {
    "AlexNet": "models",
    "BinaryClassification": "task",
    "Callback": "callbacks",
    "Classification": "task",
    "DataModule": "data",
    "MultiLabelClassification": "task",
    "Task": "task",
    "Trainer": "trainer",
    "create_optimizer": "optimizers",
    "initialize_distributed": "devices",
    "load_checkpoint": "checkpoints",
    "load_data": "data",
    "load_model": "checkpoints",
    "summarize": "models",
}


def __getattr__(name: str) -> Any:
    if name not in _PACKAGES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_PACKAGES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

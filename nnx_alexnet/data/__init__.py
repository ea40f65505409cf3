"""Data of any form as NumPy batches; the transforms that the compiled step applies to them."""

from nnx_alexnet.data.batching import Batch as Batch
from nnx_alexnet.data.datasets import DATASETS as DATASETS
from nnx_alexnet.data.datasets import load_data as load_data
from nnx_alexnet.data.loader import Loader as Loader
from nnx_alexnet.data.module import DataModule as DataModule
from nnx_alexnet.data.module import as_data_module as as_data_module
from nnx_alexnet.data.transform import ImageTransform as ImageTransform

__all__ = [
    "DATASETS",
    "Batch",
    "DataModule",
    "ImageTransform",
    "Loader",
    "as_data_module",
    "load_data",
]

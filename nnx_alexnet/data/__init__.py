"""Converts data of any form to NumPy batches, which the compiled step transforms.

Users import the names in `__all__`. The other names are for other packages of `nnx_alexnet`.
"""

from nnx_alexnet.data.applied_transform import transformed_batch as transformed_batch
from nnx_alexnet.data.batch_images import Split as Split
from nnx_alexnet.data.batch_images import are_images as are_images
from nnx_alexnet.data.batch_images import batch_sheet as batch_sheet
from nnx_alexnet.data.batching import Batch as Batch
from nnx_alexnet.data.batching import example_batch as example_batch
from nnx_alexnet.data.batching import padded_size as padded_size
from nnx_alexnet.data.cache_folders import CacheInfo as CacheInfo
from nnx_alexnet.data.cache_folders import cache_info as cache_info
from nnx_alexnet.data.cache_folders import cache_place as cache_place
from nnx_alexnet.data.cache_folders import list_caches as list_caches
from nnx_alexnet.data.cache_folders import remove_cache as remove_cache
from nnx_alexnet.data.data_module import DataModule as DataModule
from nnx_alexnet.data.data_module import as_data_module as as_data_module
from nnx_alexnet.data.datasets import DATASETS as DATASETS
from nnx_alexnet.data.datasets import READ_FROM_FILES as READ_FROM_FILES
from nnx_alexnet.data.datasets import load_data as load_data
from nnx_alexnet.data.examples import spec_text as spec_text
from nnx_alexnet.data.image_decoding import default_workers as default_workers
from nnx_alexnet.data.image_decoding import resized_side as resized_side
from nnx_alexnet.data.image_files import find_images as find_images
from nnx_alexnet.data.image_reader import square_reader as square_reader
from nnx_alexnet.data.iterable_batches import IterableBatches as IterableBatches
from nnx_alexnet.data.limited import LimitBatches as LimitBatches
from nnx_alexnet.data.limited import limited_data as limited_data
from nnx_alexnet.data.loader import Loader as Loader
from nnx_alexnet.data.prediction_data import prediction_loader as prediction_loader
from nnx_alexnet.data.resident_data import device_memory as device_memory
from nnx_alexnet.data.seeding import generator_states as generator_states
from nnx_alexnet.data.seeding import restored_generators as restored_generators
from nnx_alexnet.data.transform import ImageTransform as ImageTransform
from nnx_alexnet.data.transform import augmentation_key as augmentation_key
from nnx_alexnet.data.worker_process import WorkerDiedError as WorkerDiedError
from nnx_alexnet.data.worker_start import refuse_in_worker as refuse_in_worker

__all__ = [
    "DATASETS",
    "Batch",
    "DataModule",
    "ImageTransform",
    "Loader",
    "as_data_module",
    "find_images",
    "load_data",
]

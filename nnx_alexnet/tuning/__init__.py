"""Finds a learning rate and a batch size before a run."""

from nnx_alexnet.tuning.batch_size import BatchSizeSearch as BatchSizeSearch
from nnx_alexnet.tuning.batch_size import find_batch_size as find_batch_size
from nnx_alexnet.tuning.learning_rate import LearningRateSearch as LearningRateSearch
from nnx_alexnet.tuning.learning_rate import find_learning_rate as find_learning_rate

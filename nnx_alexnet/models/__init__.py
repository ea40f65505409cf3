"""The models that are shipped; the trainer takes any other `nnx.Module` as well."""

from nnx_alexnet.models.alexnet import AlexNet as AlexNet

__all__ = ["AlexNet"]

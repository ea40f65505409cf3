"""Writes, verifies, chooses and loads checkpoints, and compares runs before they resume."""

from nnx_alexnet.checkpoints.choosing import Choice, choose_checkpoint
from nnx_alexnet.checkpoints.digests import manifest_of
from nnx_alexnet.checkpoints.identity import (
    describe_module,
    describe_optimizer,
    identify,
    plain_attributes,
)
from nnx_alexnet.checkpoints.items import Checkpoint, read_checkpoint, read_loop
from nnx_alexnet.checkpoints.loading import load_checkpoint, load_chosen
from nnx_alexnet.checkpoints.program_digests import fingerprint, unchanged
from nnx_alexnet.checkpoints.rebuilding import load_model
from nnx_alexnet.checkpoints.same_run import Difference, check_same
from nnx_alexnet.checkpoints.store import Checkpoints, OnSaveError
from nnx_alexnet.checkpoints.verifying import verify_checkpoints

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "Choice",
    "Difference",
    "OnSaveError",
    "check_same",
    "choose_checkpoint",
    "describe_module",
    "describe_optimizer",
    "fingerprint",
    "identify",
    "load_checkpoint",
    "load_chosen",
    "load_model",
    "manifest_of",
    "plain_attributes",
    "read_checkpoint",
    "read_loop",
    "unchanged",
    "verify_checkpoints",
]

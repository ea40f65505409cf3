"""The type of a metric writer. CLU has one too, but importing that requires TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import ArrayLike


class MetricWriter(Protocol):
    """Writes the values of one run; see `TensorBoardWriter` for the arguments."""

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes numbers."""

    def write_images(self, step: int, images: Mapping[str, ArrayLike]) -> None:
        """Writes images."""

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes texts."""

    def write_histograms(self, step: int, arrays: Mapping[str, ArrayLike]) -> None:
        """Writes the distribution of the values of arrays."""

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the hyperparameters of the run."""

    def flush(self) -> None:
        """Makes the written values visible to other programs."""

    def close(self) -> None:
        """Closes the files."""

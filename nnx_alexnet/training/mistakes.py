"""`MistakeCollector`: the most confident mistakes of a pass over a split, as images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnx_alexnet.callbacks import Callback
from nnx_alexnet.dashboard import ClassificationResults, class_labels, draw_mistakes
from nnx_alexnet.data import Batch, are_images
from nnx_alexnet.support import check_integer, show_sheet

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer


class MistakeCollector(Callback):
    """Collects the most confident mistakes of a test pass.

    Args:
        count: how many to keep.

    Raises:
        ValueError: `count` is not a positive integer; in the pass, the batches have no images, or
            the task is not a classification.

    Example:
        >>> from nnx_alexnet.training.mistakes import MistakeCollector
        >>> MistakeCollector(4).results.mistakes
        []
    """

    def __init__(self, count: int) -> None:
        check_integer("count", count)
        self.results = ClassificationResults(count)

    def on_test_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Adds the results of a batch."""
        if not are_images(getattr(batch.get("image"), "shape", ())[1:]):
            raise ValueError(
                "`show_mistakes` needs images: an `image` in each batch, of shape [batch, height, "
                "width, channels] with at most 4 channels."
            )
        self.results.add(outputs, batch)
        if self.results.total is None:
            raise ValueError(
                f"`show_mistakes` needs a task whose outputs have `logits` [batch, classes] and "
                f"`labels` int[batch]; those of {type(trainer.task).__name__} do not."
            )

    def show(self, class_names: Sequence[str] | None) -> Any:
        """Shows the mistakes with their classes; returns the `matplotlib.axes.Axes`."""
        self.results.finish()
        assert self.results.total is not None
        names = class_labels(class_names, len(self.results.total))
        return show_sheet(draw_mistakes(self.results.mistakes, names))

"""Counts the examples that cannot be read, and limits how many are skipped."""

from collections.abc import Mapping

from nnx_alexnet.support import logger

_LARGEST_SHARE = 0.01  # of a split


class BadSamples:
    """The examples of a split that could not be read so far.

    Args:
        num_examples: examples in the split.
        argument: what the user calls the split, for messages.
        is_replaced: whether another example stands in for each, as in training.

    Attributes:
        reasons: why each could not be read, by its index.

    Example:
        >>> from nnx_alexnet.data.bad_samples import BadSamples
        >>> bad = BadSamples(200, "train", is_replaced=True)
        >>> bad.note({7: "OSError: truncated"})
        >>> bad.reasons
        {7: 'OSError: truncated'}
    """

    def __init__(self, num_examples: int, argument: str, *, is_replaced: bool) -> None:
        self._limit = max(1, round(_LARGEST_SHARE * num_examples))
        self._argument = argument
        self._is_replaced = is_replaced
        self.reasons: dict[int, str] = {}

    def note(self, found: Mapping[int, str]) -> None:
        """Reports each new example once.

        Args:
            found: why examples cannot be read, by their index.

        Raises:
            ValueError: more than 1% of the split cannot be read.
        """
        for index, reason in found.items():
            if index in self.reasons:
                continue
            self.reasons[index] = reason
            if len(self.reasons) > self._limit:
                raise ValueError(
                    f"More than {self._limit} examples of `{self._argument}` (1%) cannot be read; "
                    f"the newest is `{self._argument}`[{index}]: {reason}. Repair the files; "
                    '`on_bad_sample="skip"` is meant for single ones.'
                )
            action = "another example stands in for it" if self._is_replaced else "it is left out"
            logger.warning(
                "`%s`[%d] cannot be read, %s (number %d of at most %d): %s",
                self._argument, index, action, len(self.reasons), self._limit, reason,
            )  # fmt: skip

    def error(self, found: Mapping[int, str]) -> ValueError:
        """Returns the error for an example that cannot be skipped."""
        index, reason = next(iter(found.items()))
        return ValueError(
            f"`{self._argument}`[{index}] cannot be read: {reason}. A prediction has one row per "
            'example, so `on_bad_sample="skip"` cannot leave one out; repair the file, or remove '
            "it from the dataset."
        )

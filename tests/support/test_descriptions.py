from pathlib import Path

import numpy as np
import pytest

from nnx_alexnet.support import constructor_text


class Example:
    def __init__(self, first, second=2, *, mode="min", array=None, other=None):
        self.first, self.second, self.mode, self.array = first, second, mode, array
        self._other = other


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (Example(1), "Example(first=1)"),
        (Example(None, 2.5, mode="max"), "Example(first=None, second=2.5, mode='max')"),
        (Example(Path("a"), array=np.ones(3), other=4), f"Example(first={Path('a')!r})"),
        (object(), "object()"),
    ],
)
def test_plain_arguments_that_differ_from_their_defaults_are_shown(made, text):
    assert constructor_text(made) == text

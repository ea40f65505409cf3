import numpy as np
import pytest

from nnx_alexnet.data.batch_lists import has_examples, list_digest
from nnx_alexnet.data.examples import Rows


def digest(*values, mask=None):
    rows = [{"x": np.full((40, 2), value, np.float32)} for value in values]
    return list_digest(rows, lambda fields: Rows(fields, mask))


def test_a_digest_depends_on_number_values_and_masks_of_the_batches():
    masked = digest(1, 2, mask=np.zeros(40, bool))
    digests = [digest(1, 2), digest(1, 3), digest(2, 1), digest(1), digest(1, 2, 2), masked]
    assert digest(1, 2) == digests[0]
    assert len({*digests}) == len(digests)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ((np.zeros((2, 3)), np.zeros(2)), True),
        ((np.zeros((0, 3)), np.zeros(0)), False),
        ({"x": np.zeros((2, 3)), "mask": np.array([False, True])}, True),
        ({"x": np.zeros((2, 3)), "mask": np.array([False, False])}, False),
        (7, True),  # the pass refuses it
    ],
)
def test_a_batch_has_examples_unless_it_is_empty_or_masked(item, expected):
    assert has_examples(item, ("image", "label")) is expected

import pytest

from nnx_alexnet.augmentation.arguments import finite, in_range, interval, positive


@pytest.mark.parametrize("value", ["1", True, None, [1]])
def test_other_types_are_no_numbers(value):
    with pytest.raises(TypeError, match=r"`alpha` .* must be a number"):
        finite("alpha", value)


def test_numbers_become_floats():
    assert (finite("a", 2), in_range("a", 1, 0, 1), positive("a", 1)) == (2.0, 1.0, 1.0)
    assert interval("scale", [1, 2]) == (1.0, 2.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 0])
def test_positive_refuses(value):
    with pytest.raises(ValueError, match="`alpha`"):
        positive("alpha", value)

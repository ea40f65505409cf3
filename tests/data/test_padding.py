import numpy as np
import pytest

from nnx_alexnet.data import DataModule, Loader
from nnx_alexnet.data.padding import Padding
from nnx_alexnet.data.sources import IterableSource, MapSource

PAD = {"tokens": (4, 8), "labels": 8}
TOKENS = [[1], [2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12]]
ONE = np.ones(1, np.int32)
EXAMPLES = [{"tokens": row, "labels": row, "size": len(row)} for row in TOKENS]


def test_batches_get_the_smallest_length_that_fits():
    data = DataModule(EXAMPLES, EXAMPLES, batch_size=2, pad_to=PAD, pad_values={"labels": -100})
    first, second = data.val.batches()
    assert first["tokens"].tolist() == [[1, 0, 0, 0], [2, 3, 4, 5]]
    assert second["tokens"].tolist() == [[6, 7, 8, 9, 10, 0, 0, 0], [11, 12, 0, 0, 0, 0, 0, 0]]
    assert first["labels"][0].tolist() == [1] + [-100] * 7
    assert [data.val.lengths(batch) for batch in (first, second)] == [(4, 8), (8, 8)]
    assert first["size"].tolist() == [1, 4]
    spec = data.val.element_spec()
    assert (spec["tokens"].shape, spec["labels"].shape, spec["size"].shape) == ((8,), (8,), ())


def test_fields_may_be_missing_in_optional_padding():
    padding = Padding(PAD)
    with pytest.raises(ValueError, match="`pad_to` has the field 'labels', but `x` has 'tokens'"):
        padding.of({"tokens": ONE}, "x")
    assert padding.optional().of({"tokens": ONE}, "x").names == ("tokens",)
    assert padding.of({"tokens": ONE, "labels": ONE}, "x").names == padding.names


def test_batches_of_an_iterable_are_padded():
    def batches():
        yield {"tokens": np.ones((2, 3, 5), np.int8)}
        yield {"tokens": np.ones((1, 6, 5), np.int8)}

    class Source:
        def __iter__(self):
            return batches()

    loader = Loader(IterableSource(Source(), padding=Padding({"tokens": [8, 4]})))
    first, second = loader.batches()
    assert (first["tokens"].shape, second["tokens"].shape) == ((2, 4, 5), (1, 8, 5))
    assert first["tokens"][:, :3].all()
    assert not first["tokens"][:, 3:].any()
    assert loader.element_spec()["tokens"].shape == (8, 5)


@pytest.mark.parametrize("lengths", [[4, 8], [8, 4, 4], (8, 4)])
def test_lengths_may_be_in_any_order(lengths):
    assert Padding({"x": lengths}).describe() == {"x": {"lengths": [4, 8], "value": "0.0"}}
    assert Padding({"x": lengths}).has_choice


def test_a_single_length_is_no_choice():
    assert not Padding({"x": 4}).has_choice
    assert not Padding()


def read(examples, pad_to):
    source = MapSource(examples, padding=Padding(pad_to), argument="train")
    return source.take(np.arange(len(examples)), seed=0, epoch=0)


@pytest.mark.parametrize(
    ("examples", "pad_to", "message"),
    [
        (EXAMPLES, {"tokens": 4, "labels": 8}, "`train` has a `tokens` of length 5; the largest"),
        (EXAMPLES, {"tokens": 8}, r"`labels` is int32\[4\] instead of int32\[1\].*`pad_to`"),
        (EXAMPLES, {"words": 8}, "`pad_to` has the field 'words', but `train` has 'tokens', 'lab"),
        (EXAMPLES, {"size": 8}, "'size', but that of `train` is no sequence"),
        (
            [{"x": [1]}, {"x": [0.5]}],
            {"x": 2},
            r"float32\[1\] and another one int32\[1\], which differ",
        ),
        ([{"x": [[1]]}, {"x": [[1, 2]]}], {"x": 2}, r"int32\[1, 2\] and another one int32\[1, 1\]"),
        ([{"x": [1]}, {"y": [1]}], {"x": 2}, "the keys are 'y' instead of 'x'"),
    ],
)
def test_sequences_that_cannot_be_padded_are_refused(examples, pad_to, message):
    with pytest.raises(ValueError, match=message):
        read(examples, pad_to)


@pytest.mark.parametrize(
    ("pad_to", "pad_values", "error", "message"),
    [
        ({"x": 0}, None, ValueError, "lengths start at 1"),
        ({"x": []}, None, ValueError, "lengths start at 1"),
        ({"x": 2.5}, None, TypeError, r"lengths 2\.5 for 'x'; lengths are whole numbers"),
        ({"x": "ab"}, None, TypeError, "lengths are whole numbers"),
        (4, None, TypeError, r"`pad_to` \(=4\) must be a dict with the names of fields"),
        ({"x": 2}, {"x": "a"}, TypeError, "`pad_values` has 'a' for 'x'; it must be a number"),
        ({"x": 2}, {"y": 1}, ValueError, "'y', for which `pad_to` has no lengths; it has 'x'"),
    ],
)
def test_lengths_and_values_are_checked(pad_to, pad_values, error, message):
    with pytest.raises(error, match=message):
        DataModule(EXAMPLES, pad_to=pad_to, pad_values=pad_values)


def test_arrays_are_not_padded():
    with pytest.raises(ValueError, match="`pad_to` is for sequences of different lengths"):
        DataModule({"x": np.ones((4, 3))}, pad_to={"x": 8}, batch_size=2)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("int32", 0.5), ("int32", float("nan")), ("uint8", -1), ("int8", 200), ("bool", 2)],
)
def test_values_that_the_dtype_of_a_field_lacks_are_refused(dtype, value):
    padding = Padding({"tokens": 4}, {"tokens": value})
    examples = [{"tokens": np.ones(3, dtype)}]
    batches = iter([{"tokens": np.ones((2, 3), dtype)}])
    message = rf"`pad_values` has {value!r} for 'tokens', which is not a value of {dtype}"
    with pytest.raises(ValueError, match=message):
        MapSource(examples, padding=padding)
    with pytest.raises(ValueError, match=message):
        IterableSource(batches, padding=padding).element_spec()


def test_an_empty_list_is_a_sequence_of_the_dtype_of_the_others():
    examples = [{"tokens": [1, 2]}, {"tokens": []}]
    data = DataModule(examples, examples, batch_size=2, pad_to={"tokens": 3})
    tokens = next(data.val.batches())["tokens"]
    assert (tokens.dtype, tokens.tolist()) == ("int32", [[1, 2, 0], [0, 0, 0]])


def test_a_sequence_of_another_dtype_is_refused_instead_of_cast():
    padding = Padding({"tokens": 3})
    with pytest.raises(ValueError, match=r"float64\[1\] and another one int64\[2\], which differ"):
        padding.stacked("tokens", [np.array([1, 2]), np.array([0.5])], "train")


def test_an_example_without_a_sequence_is_named():
    data = DataModule([{"x": [1], "y": 1}, {"y": 2}], batch_size=2, pad_to={"x": 3})
    with pytest.raises(ValueError, match=r"`train`\[1\] differs.*the keys are 'y' instead of"):
        next(data.train.batches())


def test_batches_without_rows_are_left_out_of_padded_ones():
    sizes = (2, 0, 1)
    batches = iter([{"x": np.ones((size, 2), np.int32)} for size in sizes])
    padded = DataModule(batches, pad_to={"x": 3}).train.batches()
    assert [batch["x"].shape for batch in padded] == [(2, 3), (1, 3)]


def test_two_views_are_no_sequence():
    views = [{"views": [np.ones(3), np.ones(3)]}]
    with pytest.raises(ValueError, match="no sequence: it must be one array"):
        DataModule(views, batch_size=1, pad_to={"views": 4})


def test_the_description_of_data_contains_lengths_and_values():
    def described(lengths, value):
        examples, pads = [{"x": [1.0]}], {"pad_to": {"x": lengths}, "pad_values": {"x": value}}
        return DataModule(examples, batch_size=1, **pads).describe()

    assert described((2, 4), 0) == described([4, 2], np.float32(0))
    assert described(4, 0) != described((2, 4), 0)
    assert described(4, 0) != described(4, -1)
    assert described(4, float("nan")) == described(4, float("nan"))

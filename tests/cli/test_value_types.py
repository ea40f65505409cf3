"""The values that options accept."""

from typing import Literal

import jsonargparse
import pytest

from nnx_alexnet.cli.value_types import POSITIVE, fits, in_words, kinds_of, placeholder

ANNOTATIONS = {
    "int": int,
    "int | None": int | None,
    "float": float,
    "float | None": float | None,
    "bool": bool,
    "Literal['a', 'b']": Literal["a", "b"],
    "int | Literal['auto']": int | Literal["auto"],
    "bool | Literal['auto']": bool | Literal["auto"],
    "str": str,
}
VALUES = [
    "1", "-1", "+1", "1_000", "1e3", "10.0", "0x10", "null", "None", "~", "", "true", "True",
    "yes", "ten", "1.5", "1e-3", ".5", "nan", "inf", "a", "auto", "[1]", "{a: 1}", "[",
]  # fmt: skip


@pytest.mark.parametrize("annotation", ANNOTATIONS)
def test_every_value_that_jsonargparse_accepts_is_accepted(annotation):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--x", type=ANNOTATIONS[annotation])
    for value in VALUES:
        try:
            parser.parse_args([f"--x={value}"])
        except jsonargparse.ArgumentError:
            continue
        assert fits(value, kinds_of(annotation)), value


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ("ten", "int"), ("1.5", "int"), ("null", "int"), ("ten", "int | None"), ("x", "float"),
        ("maybe", "bool"), ("c", "Literal['a', 'b']"), ("3", "bool | Literal['auto']"),
    ],
)  # fmt: skip
def test_values_of_other_types_are_refused(value, annotation):
    assert not fits(value, kinds_of(annotation))


def test_zero_is_not_positive():
    assert fits("1", (POSITIVE,))
    assert not fits("0", (POSITIVE,))


def test_values_of_unknown_types_are_accepted():
    assert fits("anything", kinds_of("jax.sharding.Mesh | None"))
    assert fits("anything", ())


@pytest.mark.parametrize(
    ("annotation", "words", "place"),
    [
        ("int | None", "an integer or null", "N"),
        ("int | Literal['auto']", "an integer or auto", "N|auto"),
        ("Literal['raise', 'skip']", "raise or skip", "{raise,skip}"),
        ("bool", "true or false", "{true,false}"),
        ("Optional[list[str]]", "a list such as [a,b] or null", "LIST"),
        ("Mapping[str, float] | None", "a dict such as {a: b} or null", "DICT"),
        ("str | os.PathLike[str]", "text or text", "PATH"),
        ("Literal['a', 'b', 'c']", "a, b or c", "{a,b,c}"),
    ],
)
def test_types_in_words_and_in_the_help(annotation, words, place):
    assert in_words(kinds_of(annotation)) == words
    assert placeholder(kinds_of(annotation)) == place

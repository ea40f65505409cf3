"""The messages of the parser, which loads nothing."""

import pytest

from nnx_alexnet.cli.base_parser import Parser, choice, positive_int


@pytest.fixture
def parser():
    parser = Parser(prog="p", open_prefixes=["--model."])
    parser.add_argument("run", nargs="?")
    parser.add_argument("--top_k", type=positive_int, default=1)
    parser.add_argument("--format", type=choice("text", "json"))
    parser.add_argument("--resume-accept", nargs="+")
    parser.add_argument("--json", action="store_true")
    return parser


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--topk", "3"], "unknown option --topk. Did you mean --top_k?"),
        (["-k", "3"], "unknown option -k. Did you mean --top_k?"),
        (["--xyz"], "unknown option --xyz."),
        (["--top_k", "ten"], "--top_k takes a positive integer, got 'ten'."),
        (["--top_k", "0"], "--top_k takes a positive integer, got '0'."),
        (["--top_k"], "--top_k requires a value."),
        (["--format", "jsn"], "--format takes text or json, got 'jsn'. Did you mean json?"),
        (["--json=1"], "--json takes no value, got '1'."),
        (["a", "b"], "unexpected argument 'b'."),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_exits_with_2(parser, words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"p: error: {message}\nAll options: p --help\n"


def test_missing_arguments_are_named(capsys):
    parser = Parser(prog="p")
    parser.add_argument("run")
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert "p: error: missing: RUN.\n" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--top-k", "3"], ["--top-k=3"], ["--top_k", "3"]])
def test_hyphens_and_underscores_are_the_same(parser, words):
    assert parser.parse_args(words).top_k == 3
    assert parser.parse_args(["--resume_accept", "a", "b"]).resume_accept == ["a", "b"]


def test_words_after_two_dashes_are_no_options(parser):
    assert parser.parse_args(["--", "--top-k"]).run == "--top-k"


def test_options_of_other_classes_are_not_judged(parser):
    assert parser.parse_args(["--model.width", "3", "--top_k", "2"]).top_k == 2


def test_an_option_of_another_command_is_mentioned(parser, capsys):
    parser.elsewhere = {"sort": ["runs"]}.get
    with pytest.raises(SystemExit):
        parser.parse_args(["--sort", "x"])
    assert "unknown option --sort. It is an option of runs." in capsys.readouterr().err

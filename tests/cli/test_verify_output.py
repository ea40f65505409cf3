import pytest

from nnx_alexnet.cli.verify_output import VERIFY_HEADER, verify_line

DIGEST = "0123456789abcdef" * 4
INTACT = {"checkpoint": "logs/a/version_0/checkpoints/120", "step": 120, "digest": DIGEST}


def test_a_digest_is_cut_only_where_there_is_no_room():
    assert verify_line(INTACT, None) == f"     120  intact   {DIGEST}"
    assert verify_line(INTACT, 83) == verify_line(INTACT, None)
    assert verify_line(INTACT, 80) == f"     120  intact   {DIGEST[:60]}…"
    assert verify_line(INTACT, 20) == f"     120  intact   {DIGEST[:16]}…"


@pytest.mark.parametrize(("key", "state"), [("damage", "damaged"), ("error", "unknown")])
def test_a_long_description_is_wrapped_below_itself(key, state):
    row = {"checkpoint": "checkpoints/7", key: "model/dense1/kernel was changed " * 4}
    first, *others = verify_line(row, 80).splitlines()
    assert first.split()[:2] == ["7", state]
    assert others
    assert max(map(len, [first, *others])) <= 80
    assert {len(line) - len(line.lstrip()) for line in others} == {VERIFY_HEADER.index("digest")}
    assert len(verify_line(row, None).splitlines()) == 1


def test_control_characters_are_escaped():
    row = {"checkpoint": "checkpoints/7", "damage": "a\x1b[2J"}
    assert verify_line(row, None) == r"       7  damaged  a\x1b[2J"

import pytest

from nnx_alexnet.runs.last_step import read_last_step, write_last_step


def test_a_smaller_step_replaces_a_larger_one(tmp_path):
    for step in (0, 123_456, 7):
        write_last_step(tmp_path, step)
        assert read_last_step(tmp_path) == step


@pytest.mark.parametrize("content", [b"", b"-1", b"1e3", b"\xff", b"9" * 17, b"1\n2"])
def test_a_file_with_something_else_is_ignored(tmp_path, content):
    (tmp_path / ".step").write_bytes(content)
    assert read_last_step(tmp_path) is None


def test_a_missing_or_unwritable_folder_is_no_error(tmp_path):
    write_last_step(tmp_path / "missing", 3)
    (tmp_path / ".step").mkdir()
    write_last_step(tmp_path, 3)
    assert read_last_step(tmp_path) is None

"""What processes decide together; with other processes it is tested in test_distributed.py."""

import json

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from nnx_alexnet.devices.processes import check_alike, is_main, on_main


def test_a_single_process_calls_the_function_and_keeps_its_result():
    result = object()  # which JSON cannot hold
    assert is_main()
    assert on_main(lambda: result) is result


@pytest.fixture
def second(monkeypatch):
    """Makes this the second of two processes, which receives given messages of the first."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)

    def receive(message):
        text = np.frombuffer(json.dumps(message).encode(), np.uint8)
        sent = iter([np.int32(len(text)), text])
        monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda value: next(sent))

    return receive


def test_other_processes_receive_the_result_of_the_first(second):
    second({"result": ["logs/run/version_0", 8]})
    assert on_main(lambda: pytest.fail("only the first process calls it")) == [
        "logs/run/version_0", 8
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("ValueError", ValueError), ("OSError", OSError), ("other", RuntimeError)],
)
def test_other_processes_raise_the_error_of_the_first(second, kind, expected):
    second({"error": "no such run", "kind": kind})
    with pytest.raises(expected, match="no such run"):
        on_main(dict)


def test_a_part_that_differs_is_named_with_the_processes(monkeypatch):
    check_alike({"model": 1})  # a single process has nothing to compare
    monkeypatch.setattr(jax, "process_count", lambda: 3)

    def gather(rows):
        everywhere = np.stack([rows] * 3)
        everywhere[2, 1, 0] ^= 1  # in process 2, the second part
        return everywhere

    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    with pytest.raises(ValueError, match=r"`optimizer` differs .* in processes \[2\] it is not"):
        check_alike({"model": {"b": 1, "a": 2}, "optimizer": "sgd"})

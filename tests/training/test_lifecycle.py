"""`Lifecycle`: what a verb does before its first hook and after its last, whatever fails."""

import contextlib

import jax
import numpy as np
import pytest

from nnx_alexnet.training.lifecycle import Lifecycle


class Parts:
    """Stands for hooks, arrays, data and placement: keeps the order of calls, and may fail."""

    def __init__(self, **errors):
        self.calls, self.errors = [], errors

    def _note(self, name):
        self.calls.append(name)
        if name in self.errors:
            raise self.errors[name]

    def call(self, hook, *arguments):
        self._note(" ".join(map(str, (hook, *arguments))))

    def clean_up(self, failure, hook, *arguments):
        assert (failure is None) or isinstance(failure, BaseException)
        self.failure = failure
        self._note(hook)

    def end_training(self):
        self._note("end_training")

    def close(self):
        self._note("close")

    @contextlib.contextmanager
    def context(self):
        self._note("enter")
        yield
        self._note("leave")


def lifecycle_of(**errors):
    parts = Parts(**errors)
    return parts, Lifecycle(parts, parts, parts, parts)


CLEANED = ["end_training", "close", "teardown"]
CLEANED_AFTER_ERROR = ["end_training", "close", "on_exception", "teardown"]


def test_a_verb_runs_between_setup_and_teardown():
    parts, lifecycle = lifecycle_of()
    assert not lifecycle.is_running
    with lifecycle.running("fit"):
        assert lifecycle.is_running
        parts.calls.append("body")
    assert parts.calls == ["enter", "setup fit", "body", "leave", *CLEANED]
    assert not lifecycle.is_running


def test_a_failing_body_is_reported_to_callbacks_before_their_teardown():
    parts, lifecycle = lifecycle_of()
    error = ValueError("of the body")
    with pytest.raises(ValueError, match="of the body"), lifecycle.running("test"):
        raise error
    assert parts.calls == ["enter", "setup test", *CLEANED_AFTER_ERROR]
    assert parts.failure is error
    assert not lifecycle.is_running


def test_a_failing_setup_is_cleaned_up_after_too():
    parts, lifecycle = lifecycle_of(**{"setup fit": ValueError("of setup")})
    with pytest.raises(ValueError, match="of setup"), lifecycle.running("fit"):
        raise AssertionError("the body does not run")
    assert parts.calls == ["enter", "setup fit", *CLEANED_AFTER_ERROR]


@pytest.mark.parametrize("part", CLEANED[1:])
def test_a_part_that_fails_keeps_no_other_from_cleaning_up(part):
    parts, lifecycle = lifecycle_of(**{part: OSError(f"of {part}")})
    with pytest.raises(OSError, match=f"of {part}"), lifecycle.running("fit"):
        pass
    assert parts.calls == ["enter", "setup fit", "leave", *CLEANED]
    assert not lifecycle.is_running


@pytest.mark.parametrize("part", CLEANED_AFTER_ERROR[1:])
def test_all_parts_clean_up_although_the_body_and_one_of_them_failed(part):
    parts, lifecycle = lifecycle_of(**{part: OSError(f"of {part}")})
    with pytest.raises(OSError, match=f"of {part}"), lifecycle.running("fit"):
        raise ValueError("of the body")
    assert parts.calls == ["enter", "setup fit", *CLEANED_AFTER_ERROR]
    assert not lifecycle.is_running


def test_everything_else_is_cleaned_up_if_the_arrays_cannot_go_back():
    parts, lifecycle = lifecycle_of(end_training=RuntimeError("of end"))
    with pytest.raises(RuntimeError, match="of end"), lifecycle.running("fit"):
        pass
    assert parts.calls == ["enter", "setup fit", "leave", *CLEANED]
    assert not lifecycle.is_running


def test_a_verb_inside_a_verb_is_refused():
    _, lifecycle = lifecycle_of()
    lifecycle.check_idle()
    with lifecycle.running("fit"), pytest.raises(RuntimeError, match="a hook cannot call its `fit"):
        lifecycle.check_idle()
    lifecycle.check_idle()


def test_transfers_are_allowed_inside_a_verb_whatever_the_caller_has_set():
    _, lifecycle = lifecycle_of()
    with jax.transfer_guard("disallow"), lifecycle.running("fit"):
        assert float(jax.numpy.ones(2)[0]) == 1.0


# ---- Streams -----------------------------------------------------------------------------------


def results_of(parts, *results):
    """Yields results, and records its end."""
    try:
        for result in results:
            parts.calls.append(f"compute {result}")
            yield result
    finally:
        parts.calls.append("closed")


def test_a_stream_runs_from_the_call_to_its_last_result():
    parts, lifecycle = lifecycle_of()
    stream = lifecycle.stream("predict", results_of(parts, 1, 2))
    assert lifecycle.is_running
    assert parts.calls == ["enter", "setup predict", "leave"]
    assert list(stream) == [1, 2]
    assert not lifecycle.is_running
    computed = ["enter", "compute 1", "leave", "enter", "compute 2", "leave", "enter", "closed"]
    assert parts.calls[3:] == [*computed, "leave", "enter", "leave", *CLEANED]


@pytest.mark.parametrize("num_taken", [0, 1])
@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_stream_that_is_closed_or_dropped_is_cleaned_up_without_an_error(num_taken, how):
    parts, lifecycle = lifecycle_of()
    stream = lifecycle.stream("predict", results_of(parts, 1, 2, 3))
    for _ in range(num_taken):
        next(stream)
    if how == "close":
        stream.close()
    else:
        del stream
    assert not lifecycle.is_running
    assert parts.calls[-3:] == CLEANED
    assert parts.failure is None
    assert parts.calls.count("closed") == num_taken, "results that have not begun have no end"


def test_a_stream_that_fails_is_reported_to_callbacks():
    def failing():
        yield 1
        raise ValueError("of a result")

    parts, lifecycle = lifecycle_of()
    stream = lifecycle.stream("predict", failing())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="of a result"):
        next(stream)
    assert parts.calls[-4:] == CLEANED_AFTER_ERROR
    assert not lifecycle.is_running


def test_other_verbs_are_refused_while_a_stream_is_open():
    _, lifecycle = lifecycle_of()

    def results():
        with pytest.raises(RuntimeError, match="a hook cannot call"):
            lifecycle.check_idle()
        yield 1

    stream = lifecycle.stream("predict", results())
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"`predict_batches` .*still running: .*`close\(\)`"):
            lifecycle.check_idle()
        next(stream, None)
    lifecycle.check_idle()


def test_the_callers_transfer_guard_is_in_effect_between_results():
    def results():
        while True:
            yield float(jax.numpy.ones(2)[0])

    _, lifecycle = lifecycle_of()
    with jax.transfer_guard("disallow"):
        stream = lifecycle.stream("predict", results())
        assert next(stream) == 1.0
        with pytest.raises(Exception, match="Disallowed"):
            jax.numpy.ones(2) + np.ones(2)
    stream.close()
    assert float((jax.numpy.ones(2) + np.ones(2))[0]) == 2.0

"""`Requests` and `Agreement`: what hooks, signals and other processes ask for, applied once."""

import signal

import jax
import numpy as np
import pytest

from nnx_alexnet.training.progress import Progress
from nnx_alexnet.training.requests import Agreement, Asked, Requests, SaveRequest


@pytest.fixture
def reasons():
    return []


@pytest.fixture
def requests(reasons):
    return Requests(reasons.append)


# ---- One process --------------------------------------------------------------------------------


def test_a_stop_is_applied_at_once_and_once(requests, reasons):
    requests.stop("good enough")
    assert reasons == ["good enough"]
    requests.settle()
    assert reasons == ["good enough"]


def test_nothing_is_asked_at_first(requests, reasons):
    requests.settle()
    assert (requests.interrupted, requests.is_cut_short, requests.is_save_asked) == (False,) * 3
    assert requests.take_save() is None
    assert reasons == []


def test_a_request_for_a_checkpoint_is_taken_once(requests):
    requests.save()
    requests.save()
    assert requests.is_save_asked
    assert requests.take_save() == SaveRequest(gives_way=False)
    assert not requests.is_save_asked
    assert requests.take_save() is None


@pytest.mark.parametrize(
    ("asked", "gives_way"),
    [([True], True), ([False], False), ([True, True], True), ([True, False], False),
     ([False, True], False)],
)  # fmt: skip
def test_a_checkpoint_gives_way_only_if_all_who_ask_agree(requests, asked, gives_way):
    for each in asked:
        requests.save(gives_way=each)
    assert requests.take_save() == SaveRequest(gives_way=gives_way)


def test_each_step_decides_whether_its_checkpoint_gives_way(requests):
    requests.save(gives_way=False)
    requests.take_save()
    requests.save(gives_way=True)
    assert requests.take_save() == SaveRequest(gives_way=True)


def test_a_signal_ends_the_run_and_is_passed_on(requests):
    requests.interrupt(signal.SIGTERM)
    assert requests.interrupted
    assert requests.is_cut_short
    assert requests.received.signal == signal.SIGTERM


def test_a_signal_saves_nothing_and_gives_no_reason(requests, reasons):
    requests.interrupt(signal.SIGINT)
    assert not requests.is_save_asked
    assert reasons == []


def test_the_next_verb_runs_although_a_signal_cut_the_last_one_short(requests):
    requests.interrupt(signal.SIGINT)
    requests.begin_verb()
    assert not requests.is_cut_short
    assert requests.interrupted, "the run stays one that was interrupted"
    requests.settle()
    assert not requests.is_cut_short


def test_signals_are_ignored_once_the_run_has_ended(requests):
    requests.end_run()
    requests.interrupt(signal.SIGINT)
    assert not requests.interrupted
    assert requests.received.signal == 0


def test_the_end_of_a_run_does_not_undo_a_signal(requests):
    requests.interrupt(signal.SIGINT)
    requests.end_run()
    requests.interrupt(signal.SIGTERM)
    assert requests.interrupted
    assert requests.received.signal == signal.SIGTERM


class AsksMeanwhile(dict):
    """The counts of an agreement, of which a handler changes one right after they are read."""

    def __init__(self, counts, name):
        super().__init__(counts)
        self.name = name

    def keys(self):  # by which `dict` copies it
        return [*super().keys()]

    def __iter__(self):
        yield from super().__iter__()

    def __getitem__(self, name):
        value = super().__getitem__(name)
        if name == self.name:
            self.name = None
            self[name] = value + 1
        return value


@pytest.mark.parametrize("name", ["stop", "save"])
def test_what_a_signal_handler_asks_while_settle_reads_is_not_lost(name):
    agreement = Agreement()
    agreement._asked = AsksMeanwhile(agreement._asked, name)
    assert agreement.settle() == Asked()
    assert agreement.settle() == Asked(**{name: True})
    assert agreement.settle() == Asked()


class SavesMeanwhile(Requests):
    """A checkpoint is asked for by a signal handler right after the requests were counted."""

    @property
    def _num_saves(self):
        number = self._number
        if self._asks:
            self._asks, self._number = False, number + 1
        return number

    @_num_saves.setter
    def _num_saves(self, number):
        self._number, self._asks = number, False


def test_a_checkpoint_asked_for_while_one_is_taken_is_not_lost():
    requests = SavesMeanwhile(lambda reason: None)
    requests.save()
    requests._asks = True
    assert requests.take_save() is not None
    assert requests.is_save_asked
    assert requests.take_save() is not None
    assert requests.take_save() is None


# ---- Several processes --------------------------------------------------------------------------


def test_what_either_asks_for_is_asked_for():
    first, second = Asked(stop=True, signal=2), Asked(save=True, signal=15)
    assert first.either(second) == second.either(first) == Asked(True, True, 15)
    assert Asked().either(Asked()) == Asked()
    assert not any(Asked())


class Others:
    """Stands for the collective: the rows of this process, and what others answer to each."""

    def __init__(self, *answers):
        self.sent, self.answers = [], [*answers]

    def __call__(self, rows):
        self.sent.append(np.asarray(rows)[0].tolist())
        answer = self.answers.pop(0) if self.answers else Asked()
        return np.maximum(np.asarray(rows)[0], np.array(answer, np.int32))


@pytest.fixture
def among(monkeypatch):
    """Returns an agreement or requests that believe there are other processes."""

    def of(made, *answers):
        agreement = made if isinstance(made, Agreement) else made._agreement
        agreement.is_alone = False
        agreement._mesh = jax.make_mesh((1,), ("process",))
        agreement._any = Others(*answers)
        return made

    return of


def test_a_request_waits_for_the_next_place_where_processes_meet(among, requests, reasons):
    among(requests)
    requests.stop("good enough")
    requests.save()
    assert reasons == []
    assert not requests.is_save_asked
    requests.settle()
    assert reasons == ["good enough"]
    assert requests.is_save_asked


def test_what_another_process_asks_is_applied_without_its_reason(among, requests, reasons):
    among(requests, Asked(stop=True, save=True, signal=15))
    requests.settle()
    assert reasons == [None]
    assert requests.is_save_asked
    assert requests.interrupted
    assert requests.received.signal == 15


def test_answers_are_read_late_where_that_is_allowed(among):
    agreement = among(Agreement(), Asked(stop=True), Asked(save=True))
    assert agreement.settle(at_most=2) == Asked()
    assert agreement.settle(at_most=2) == Asked()
    assert agreement.settle(at_most=2) == Asked(stop=True)
    assert agreement.settle() == Asked(save=True)


def test_a_request_is_sent_once_and_a_signal_with_each_call(among):
    agreement = among(Agreement())
    agreement.ask(save=True)
    agreement.signal = 15
    agreement.settle()
    agreement.settle()
    assert agreement._any.sent == [[0, 1, 15], [0, 0, 15]]


def test_a_verb_drops_what_the_one_before_had_asked(among, requests, reasons):
    among(requests)
    requests.stop("late")
    requests.interrupt(signal.SIGTERM)
    requests.begin_verb()
    requests.settle()
    assert reasons == []
    assert not requests.interrupted


def test_an_empty_reason_is_a_reason():
    progress = Progress(lambda metrics, step: None)
    Requests(progress.stop).stop("")
    assert progress.stop_reason == ""


def test_alone_a_save_that_a_handler_asks_for_is_answered_once():
    requests = Requests(lambda reason: None)
    requests.save()
    requests.settle()
    requests.save()  # as a signal handler does between two lines of the loop
    assert requests.take_save() is not None
    requests.settle()
    assert requests.take_save() is None

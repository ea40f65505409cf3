import multiprocessing

import pytest
from data_helpers import same
from worker_datasets import Noisy, Stripes, TellsEpoch, TellsWorker

from nnx_alexnet.data import DataModule, Loader, WorkerDiedError, workers
from nnx_alexnet.data.sources import MapSource


@pytest.mark.parametrize("num_workers", [0, 1])
def test_set_epoch_reaches_datasets_in_every_process(num_workers):
    loader = Loader(MapSource(TellsEpoch()), batch_size=4, num_workers=num_workers)
    try:
        for epoch in (0, 2, 1):
            values = [b["image"][:, 0, 0, 0].tolist() for b in loader.batches(epoch=epoch)]
            assert values == [[10.0 * epoch + i for i in r] for r in (range(4), range(4, 6))]
    finally:
        loader.close()


def test_workers_read_the_same_bytes_and_end_with_close():
    own = Loader(MapSource(Noisy()), batch_size=4, shuffle=True)
    loader = Loader(MapSource(Noisy()), batch_size=4, shuffle=True, num_workers=2)
    try:
        assert same(loader.batches(seed=1), own.batches(seed=1))
        abandoned = loader.batches(seed=1, epoch=1)
        next(abandoned)
        assert same(loader.batches(seed=1, epoch=2, start=3), own.batches(seed=1, epoch=2, start=3))
        with pytest.raises(RuntimeError, match="ended by a later one"):
            next(abandoned)
        processes = multiprocessing.active_children()
        assert len(processes) == 2
        assert all(process.is_alive() for process in processes)
    finally:
        loader.close()
    assert not any(process.is_alive() for process in processes)


def test_errors_in_a_worker_arrive_as_they_were_raised():
    loader = Loader(MapSource(Noisy(damaged=9)), batch_size=4, num_workers=1)
    try:
        batches = loader.batches()
        assert next(batches)["index"].tolist() == [0, 1, 2, 3]
        next(batches)
        with pytest.raises(KeyError) as caught:
            next(batches)
        assert caught.value.args == ("example 9 is damaged",)
        example, place = caught.value.__notes__
        assert example == "Raised while `data`[9] was read."
        assert "worker_datasets.py" in place
        assert next(loader.batches(start=3))["index"].tolist() == [12, 13, 14, 15]
    finally:
        loader.close()


def loader_of(dataset):
    return DataModule(dataset, batch_size=8, num_workers=2).train


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            OSError(11, "Resource temporarily unavailable"),
            OSError,
            "2 workers of `train` could not",
        ),
        (EOFError(), WorkerDiedError, "failed to start"),
        (ConnectionResetError(), WorkerDiedError, "failed to start"),
    ],
)
def test_a_failed_start_raises_one_error(monkeypatch, error, kind, message):
    def fails(*arguments):
        raise error

    monkeypatch.setattr(multiprocessing.get_context("forkserver").Process, "start", fails)
    with pytest.raises(kind, match=message):
        next(loader_of(Stripes()).batches())


def test_workers_that_were_not_closed_end_at_exit():
    loader = loader_of(Stripes())
    next(loader.batches())
    assert len(multiprocessing.active_children()) == 2
    workers._close_all()
    assert multiprocessing.active_children() == []


def test_a_dataset_can_ask_torch_which_worker_reads_it():
    loader = Loader(MapSource(TellsWorker()), batch_size=4, num_workers=2)
    try:
        # Batches are dealt in turn to workers 0 and 1 of 2.
        labels = [batch["label"].tolist() for batch in loader.batches()]
    finally:
        loader.close()
    assert labels == [[4] * 4, [5] * 4, [4] * 4, [5] * 4]

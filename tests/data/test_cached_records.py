import pickle
import subprocess
import sys
import threading

import cache_writers
import numpy as np
import pytest
from cache_writers import BYTES, NUM, content, keys_of, records_in, rows_of

from nnx_alexnet.data.cached_records import CachedRecords
from nnx_alexnet.data.decoded_cache import DecodedCache, record_crc


def filled(folder, indices, num=NUM, num_bytes=8):
    records = records_in(folder, num, num_bytes)
    for index in indices:
        records.add(index, [memoryview(content(index, num_bytes))])
    records.refresh()
    return records


def read(records, indices):
    return rows_of(records, indices, 8)


def damage(records, number, num_bytes=8):
    with (records.cache.folder / "records").open("r+b") as file:
        file.seek(number * num_bytes + 3)
        byte = file.read(1)
        file.seek(number * num_bytes + 3)
        file.write(bytes([byte[0] ^ 1]))


def test_rows_are_read_in_any_order_and_in_parts(tmp_path):
    records = filled(tmp_path, [5, 3, 4, 9])
    assert records.missing(np.array([3, 8, 9, 2])).tolist() == [8, 2]
    assert records.missing().tolist() == [i for i in range(NUM) if i not in (3, 4, 5, 9)]
    assert read(records, [9, 8, 3, 4, 5]) == [True, False, True, True, True]
    parts = np.zeros((2, 3), np.uint8), np.zeros((2, 5), np.uint8)
    assert records.read(np.array([4, 9]), parts).all()
    assert np.array_equal(np.hstack(parts), [content(4, 8), content(9, 8)])


def test_a_damaged_record_is_noticed_when_first_read_and_replaced(tmp_path):
    records = filled(tmp_path, range(4))
    assert read(pickle.loads(pickle.dumps(records)), [0]) == [False]  # it has not looked yet
    damage(records, number=2)
    again = records_in(tmp_path, num_bytes=8)
    again.refresh()
    assert read(again, [0, 1, 2, 3]) == [True, True, False, True]
    assert again.missing(np.arange(4)).tolist() == [2]
    again.add(2, [memoryview(content(2, 8))])
    again.refresh()
    assert read(again, [0, 1, 2, 3]) == [True] * 4
    assert len(again.cache.entries()) == 5
    third = records_in(tmp_path, num_bytes=8)  # the newest record of an example counts
    third.refresh()
    assert read(third, [0, 1, 2, 3]) == [True] * 4


def test_records_of_its_own_workers_are_not_checked_again(tmp_path, monkeypatch):
    records = records_in(tmp_path, num_bytes=8)
    in_worker = pickle.loads(pickle.dumps(records))
    for each in (in_worker, records_in(tmp_path, num_bytes=8)):
        each.add(0 if each is in_worker else 1, [memoryview(content(each is not in_worker, 8))])
    checked = []

    def note(key, buffers):
        checked.append(key[0])
        return record_crc(key, buffers)

    monkeypatch.setattr("nnx_alexnet.data.cached_records.record_crc", note)
    records.refresh()
    for _ in range(2):
        assert read(records, [0, 1]) == [True, True]
    assert checked == [1]


def test_a_record_of_another_example_is_not_taken_for_its_own(tmp_path):
    filled(tmp_path, range(4))
    file = tmp_path / "records"
    bits = file.read_bytes()
    file.write_bytes(bits[8:16] + bits[:8] + bits[16:])
    again = records_in(tmp_path, num_bytes=8)
    again.refresh()
    assert read(again, [0, 1, 2, 3]) == [False, False, True, True]


def test_keys_with_the_same_beginning_are_told_apart(tmp_path):
    keys = np.zeros((2, 16), np.uint8)
    keys[1, 15] = 1
    other = keys.copy()
    other[1, 14] = 1
    cache = DecodedCache(tmp_path, record_bytes=1)
    CachedRecords(cache, other).add(1, [memoryview(b"x")])
    records = CachedRecords(cache, keys)
    records.refresh()
    assert records.missing().tolist() == [0, 1]


def test_two_objects_write_an_example_once_and_find_those_of_each_other(tmp_path):
    one, two = (records_in(tmp_path, num_bytes=8) for _ in range(2))
    for records in (one, two):
        records.add(7, [memoryview(content(7, 8))])
    assert len(one.cache.entries()) == 1
    two.add(1, [memoryview(content(1, 8))])
    one.refresh()
    assert read(one, [7, 1]) == [True, True]


def test_a_reader_does_not_wait_for_a_writer_that_looks_for_its_example(tmp_path):
    records, other = records_in(tmp_path, num_bytes=8), records_in(tmp_path, num_bytes=8)
    other.add(3, [memoryview(content(3, 8))])
    refresh, unfinished = records.refresh, []

    def refresh_in_both_threads():  # the writer holds the lock of the journal meanwhile
        reader = threading.Thread(target=refresh, daemon=True)
        reader.start()
        reader.join(5)
        unfinished.append(reader.is_alive())
        if not unfinished[-1]:
            refresh()

    records.refresh = refresh_in_both_threads
    records.add(3, [memoryview(content(3, 8))])
    assert unfinished == [False]
    assert read(records, [3]) == [True]
    assert len(records.cache.entries()) == 1, "it was there"


@pytest.mark.parametrize("times", [12, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_writers_leave_intact_records_and_others_complete_them(tmp_path, times):
    command = [sys.executable, cache_writers.__file__, str(tmp_path), str(times)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    counts = list(map(int, done.stdout.split()))
    assert counts == sorted(counts)
    assert counts[-1] > 0
    assert counts[0] < NUM
    records = filled(tmp_path, range(NUM), num_bytes=BYTES)
    assert all(rows_of(records, list(range(NUM))))
    keys = [bytes(key) for key in records.cache.entries()["key"]]
    assert sorted(keys) == sorted(map(bytes, keys_of()))

"""Writes a cache of decoded examples in processes that are killed.

    python cache_writers.py FOLDER TIMES

Prints the number of records after each of TIMES rounds. The processes are forked, so that they
start at once; this process has no other threads.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from nnx_alexnet.data.cached_records import CachedRecords
from nnx_alexnet.data.decoded_cache import DecodedCache

NUM, BYTES = 400, 20_000


def keys_of(num=NUM):
    """Returns keys: the first half is the number of the example, the second half is 7."""
    keys = np.full((num, 2), 7, np.uint64)
    keys[:, 0] = np.arange(num)
    return keys.view(np.uint8).reshape(num, 16)


def content(index, num_bytes=BYTES):
    """Returns the record of an example; no other example has any of its bytes in the same place."""
    return (np.arange(num_bytes) * 31 + index * 7 + index // 256).astype(np.uint8)


def records_in(folder, num=NUM, num_bytes=BYTES):
    return CachedRecords(DecodedCache(Path(folder), record_bytes=num_bytes), keys_of(num))


def rows_of(records, indices, num_bytes=BYTES):
    """Reads records, checks their content, and returns the mask of those that exist."""
    rows = np.zeros((len(indices), num_bytes), np.uint8)
    is_read = records.read(np.array(indices), [rows])
    expected = np.array([content(index, num_bytes) for index in indices])
    assert np.array_equal(rows[is_read], expected[is_read])
    return is_read.tolist()


def write(folder, first):
    """Writes every second example from `first` on."""
    records = records_in(folder)
    for index in range(first, NUM, 2):
        records.add(index, [memoryview(content(index))])


def write_and_kill(folder, seconds):
    children = []
    for first in range(2):
        child = os.fork()
        if not child:
            write(folder, first)
            os._exit(0)
        children.append(child)
    time.sleep(seconds)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    generator = random.Random(0)
    for _ in range(int(sys.argv[2])):
        write_and_kill(sys.argv[1], generator.uniform(0, 0.004))
        records = records_in(sys.argv[1])
        records.refresh()
        there = np.setdiff1d(np.arange(NUM), records.missing()).tolist()
        assert not there or all(rows_of(records, there))
        print(len(there), flush=True)

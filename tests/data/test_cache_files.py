import errno
import os
import re
import shutil

import numpy as np
import pytest

from nnx_alexnet.data import cache_files
from nnx_alexnet.data.cache_files import remove
from nnx_alexnet.data.decoded_cache import DecodedCache, num_entries

KEY, OTHER = b"0123456789abcdef", b"fedcba9876543210"


def cache_in(folder):
    return DecodedCache(folder / "cache", record_bytes=4, about={"data": "mine"})


def add(cache, key, content):
    cache.add(key, [memoryview(content)])


def record(cache, number):
    found = bytearray(4)
    return bytes(found) if cache.read(number, [memoryview(found)]) else None


def test_a_removed_cache_stays_open_for_its_users_and_is_created_again(tmp_path):
    old, folder = cache_in(tmp_path), tmp_path / "cache"
    add(old, KEY, b"abcd")
    (folder / ".nnx-alexnet-0123456789abcdef.tmp").touch()  # a process was killed
    remove(folder)
    assert not folder.exists()
    assert num_entries(folder) == 0
    new = cache_in(tmp_path)
    add(new, OTHER, b"wxyz")
    add(old, OTHER, b"efgh")
    assert [record(old, number) for number in range(2)] == [b"abcd", b"efgh"]
    assert [record(new, number) for number in range(2)] == [b"wxyz", None]
    assert num_entries(folder) == 1


def test_files_of_two_caches_are_never_opened_together(tmp_path, monkeypatch):
    add(cache_in(tmp_path), KEY, b"abcd")
    folder, opened = tmp_path / "cache", []

    def open_slowly(path, flags):
        opened.append(path.name)
        if opened == ["records", "journal"]:  # another process replaces the cache in between
            shutil.rmtree(folder)
            folder.mkdir()
        return os.open(path, flags, 0o666)

    monkeypatch.setattr("nnx_alexnet.data.cache_files.open_regular", open_slowly)
    cache = cache_in(tmp_path)
    add(cache, OTHER, b"wxyz")
    assert opened == ["records", "journal"] * 2
    assert record(cache_in(tmp_path), 0) == b"wxyz"
    assert np.array_equal(cache.entries(), cache_in(tmp_path).entries())


def test_a_read_only_cache_is_read(tmp_path, monkeypatch):
    add(cache_in(tmp_path), KEY, b"abcd")

    def open_for_reading(path, flags):
        if flags & os.O_RDWR:
            raise OSError(30, "Read-only file system")
        return os.open(path, flags)

    monkeypatch.setattr("nnx_alexnet.data.cache_files.open_regular", open_for_reading)
    cache = cache_in(tmp_path)
    assert record(cache, 0) == b"abcd"
    with pytest.raises(PermissionError, match="is not writable"):
        add(cache, OTHER, b"wxyz")


def test_large_reads_are_continued_and_a_failing_disk_has_no_records(tmp_path, monkeypatch):
    cache, preadv = cache_in(tmp_path), os.preadv
    add(cache, KEY, b"abcd")

    def read_a_byte(descriptor, buffers, start):
        return preadv(descriptor, [buffers[0][:1]], start)

    monkeypatch.setattr(os, "preadv", read_a_byte)
    assert record(cache, 0) == b"abcd"

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    assert record(cache, 0) is None


def test_an_empty_folder_that_is_not_writable_is_an_error(tmp_path, monkeypatch):
    def open_read_only(path, flags):
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return os.open(path, flags)

    monkeypatch.setattr(cache_files, "open_regular", open_read_only)
    assert cache_files.open_files(tmp_path, creates=False) is None
    with pytest.raises(PermissionError, match=re.escape(str(tmp_path))):
        cache_files.open_files(tmp_path, creates=True)

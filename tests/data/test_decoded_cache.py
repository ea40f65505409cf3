import os
import pickle
import shutil

import numpy as np
import pytest

from nnx_alexnet.data.decoded_cache import DecodedCache, num_entries, record_crc, remove

KEY, OTHER = b"0123456789abcdef", b"fedcba9876543210"


def cache_in(folder):
    return DecodedCache(folder / "cache", record_bytes=4, about={"data": "mine"})


def add(cache, key, content, **options):
    cache.add(key, [memoryview(content)], **options)


def record(cache, number):
    found = bytearray(4)
    return bytes(found) if cache.read(number, [memoryview(found)]) else None


def test_records_are_found_by_other_objects_and_in_parts(tmp_path):
    cache, other = cache_in(tmp_path), cache_in(tmp_path)
    assert len(other.entries()) == 0
    assert not (tmp_path / "cache").exists()  # reading creates nothing
    cache.add(KEY, [memoryview(b"a"), memoryview(b"bcd")])
    add(cache, OTHER, b"wxyz")
    entries = other.entries()
    assert [bytes(key) for key in entries["key"]] == [KEY, OTHER]
    assert entries["number"].tolist() == [0, 1]
    assert entries["crc"][1] == record_crc(OTHER, [memoryview(b"wx"), memoryview(b"yz")])
    assert other.entries(1)["number"].tolist() == [1]
    both, rest = bytearray(6), bytearray(2)
    assert other.read(0, [memoryview(both), memoryview(rest)])
    assert bytes(both + rest) == b"abcdwxyz"
    assert record(other, 2) is None
    copied = pickle.loads(pickle.dumps(cache))
    assert record(copied, 0) == b"abcd"
    assert (tmp_path / "cache" / "cache.json").read_text() == '{\n  "data": "mine"\n}\n'


def test_an_example_that_is_there_already_is_not_written(tmp_path):
    cache = cache_in(tmp_path)
    add(cache, KEY, b"abcd", is_there=lambda: True)
    assert len(cache.entries()) == 0


def test_the_beginning_of_an_entry_and_a_record_without_one_are_overwritten(tmp_path):
    cache = cache_in(tmp_path)
    add(cache, KEY, b"abcd")
    with (tmp_path / "cache" / "journal").open("ab") as journal:
        journal.write(b"x" * 31)
    with (tmp_path / "cache" / "records").open("ab") as records:
        records.write(b"unfi")
    assert len(cache.entries()) == 1
    add(cache_in(tmp_path), OTHER, b"wxyz")
    assert [bytes(key) for key in cache.entries()["key"]] == [KEY, OTHER]
    assert record(cache, 1) == b"wxyz"
    assert (tmp_path / "cache" / "journal").stat().st_size == 64


@pytest.mark.parametrize("place", range(32))
def test_a_change_of_any_byte_of_an_entry_is_noticed(tmp_path, place):
    cache = cache_in(tmp_path)
    add(cache, KEY, b"abcd")
    add(cache, OTHER, b"wxyz")
    with (tmp_path / "cache" / "journal").open("r+b") as journal:
        journal.seek(place)
        byte = journal.read(1)
        journal.seek(place)
        journal.write(bytes([byte[0] ^ 0x10]))
    assert [bytes(key) for key in cache_in(tmp_path).entries()["key"]] == [bytes(16), OTHER]


def test_entries_that_a_power_failure_left_empty_or_moved_do_not_count(tmp_path):
    cache = cache_in(tmp_path)
    add(cache, KEY, b"abcd")
    add(cache, OTHER, b"wxyz")
    journal = tmp_path / "cache" / "journal"
    entries = journal.read_bytes()
    journal.write_bytes(entries[32:] + bytes(32) + entries[32:64])
    assert [bytes(key) for key in cache_in(tmp_path).entries()["key"]] == [bytes(16)] * 3


def test_a_removed_cache_is_kept_by_those_who_use_it_and_created_anew(tmp_path):
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

    monkeypatch.setattr("nnx_alexnet.data.decoded_cache.open_regular", open_slowly)
    cache = cache_in(tmp_path)
    add(cache, OTHER, b"wxyz")
    assert opened == ["records", "journal"] * 2
    assert record(cache_in(tmp_path), 0) == b"wxyz"
    assert np.array_equal(cache.entries(), cache_in(tmp_path).entries())


def test_a_cache_that_may_not_be_written_is_read(tmp_path, monkeypatch):
    add(cache_in(tmp_path), KEY, b"abcd")

    def open_for_reading(path, flags):
        if flags & os.O_RDWR:
            raise OSError(30, "Read-only file system")
        return os.open(path, flags)

    monkeypatch.setattr("nnx_alexnet.data.decoded_cache.open_regular", open_for_reading)
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

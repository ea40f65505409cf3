import os
import pickle

import pytest

from nnx_alexnet.data.decoded_cache import DecodedCache, record_crc

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
    cache, asked = cache_in(tmp_path), []

    def is_there():
        asked.append(len(cache.entries()))
        return len(asked) == 2

    numbers = [
        cache.add(key, [memoryview(b"abcd")], num_known=known, is_there=is_there)
        for key, known in [(KEY, 0), (OTHER, 0), (KEY, 2), (KEY, 1), (KEY, 0), (OTHER, 1)]
    ]
    assert numbers == [0, 1, 2, 3, None, 4]
    assert asked == [3, 4, 4]  # not where no unknown entry has the key


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


def test_a_forked_child_opens_the_files_again_and_is_another_writer(tmp_path, monkeypatch):
    cache = cache_in(tmp_path)
    add(cache, KEY, b"abcd")
    files, writer = cache._files, cache.writer
    monkeypatch.setattr(os, "getpid", lambda: -1)
    add(cache, OTHER, b"wxyz")
    assert not {*files[:2]} & {*cache._files[:2]}
    assert cache.entries()["writer"].tolist() == [writer, cache.writer]
    assert cache.writer != writer

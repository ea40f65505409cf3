import json
import os
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from nnx_alexnet.data.cache_folders import (
    cache_place,
    cached_records,
    check_room,
    list_caches,
    remove_cache,
)

RECORD = {"image": jax.ShapeDtypeStruct((2, 3), np.uint8)}
KEYS = np.arange(64, dtype=np.uint8).reshape(4, 16)


def records_of(place, *, data="mine", record=RECORD, keys=KEYS):
    return cached_records(place, {"data": data}, record, [keys[:3], keys[3:]])


def test_the_place_follows_the_xdg_specification(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_place(True) == tmp_path / "nnx_alexnet" / "decoded"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_place(True) == tmp_path / "home" / ".cache" / "nnx_alexnet" / "decoded"
    assert cache_place("~/mine") == tmp_path / "home" / "mine"
    monkeypatch.chdir(tmp_path)
    assert cache_place("mine") == tmp_path / "mine"
    assert cache_place(False) is None


@pytest.mark.parametrize("wrong", [1, 0.5, b"mine", ["mine"]])
def test_other_values_of_cache_are_refused(wrong):
    with pytest.raises(TypeError, match=r"^`cache` \(=.*\) must be True, False, or the folder"):
        cache_place(wrong)


def test_systems_without_positioned_reads_are_refused(monkeypatch):
    monkeypatch.delattr(os, "preadv")
    with pytest.raises(ValueError, match=r"`cache` \(=True\) works on Linux and macOS"):
        cache_place(True)


def test_other_data_and_forms_have_separate_caches(tmp_path):
    same, again = (records_of(tmp_path)[0].cache.folder for _ in range(2))
    others = [
        records_of(tmp_path, data="yours")[0].cache.folder,
        records_of(tmp_path, record={"image": jax.ShapeDtypeStruct((3, 2), np.uint8)})[
            0
        ].cache.folder,
    ]
    assert same == again
    assert len({same, *others}) == 3
    assert list(tmp_path.iterdir()) == []


def test_the_size_is_logged_before_anything_is_written(tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", logger="nnx_alexnet")
    splits = records_of(tmp_path / "new")
    splits[0].add(1, [memoryview(b"abcdef")])
    splits = records_of(tmp_path / "new")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=18))
    check_room(splits, tmp_path / "new")
    folder = splits[0].cache.folder
    assert caplog.messages == [
        f"Cache {folder}: 1 of 4 examples; the others are added when they are read (18 bytes; "
        "18 bytes are free)."
    ]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=17))
    with pytest.raises(ValueError, match=r"1 of 4 examples; the others need 18 bytes, but only 17"):
        check_room(splits, tmp_path / "new")
    for index in (0, 2):
        splits[0].add(index, [memoryview(b"abcdef")])
    splits[1].add(0, [memoryview(b"abcdef")])
    caplog.clear()
    check_room(records_of(tmp_path / "new"), tmp_path / "new")  # nothing is missing
    assert caplog.messages == [f"Cache {folder}: 4 of 4 examples."]


def test_a_place_that_is_not_a_writable_folder_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"`cache` .* must be a folder, but .*file is a file"):
            check_room(records_of(place), place)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match=r"`cache` .* cannot be created: .* is not writable"):
        check_room(records_of(tmp_path / "new"), tmp_path / "new")


def test_caches_are_listed_and_removed(tmp_path):
    assert list_caches(tmp_path / "none") == []
    for number, data in enumerate(("mine", "yours")):
        records = records_of(tmp_path, data=data)[0]
        records.add(number, [memoryview(b"abcdef")])
        os.utime(records.cache.folder / "journal", (number, number))
        os.utime(records.cache.folder / "records", (number, number))
    (tmp_path / "notes").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "cache.json").write_text("{")
    found = list_caches(tmp_path)
    assert [info.about["data"] for info in found] == ["yours", "mine"]
    assert [info.num_records for info in found] == [1, 1]
    assert found[0].about["record"] == {"image": "uint8[2, 3]"}
    assert json.loads((found[0].folder / "cache.json").read_text()) == found[0].about
    assert remove_cache(found[0].folder) == found[0]
    assert list_caches(tmp_path) == found[1:]
    for name in ("notes", "broken", "none"):
        with pytest.raises(
            ValueError, match=r"is not the folder of a cache, .* `nnx-alexnet cache --list`"
        ):
            remove_cache(tmp_path / name)
    assert (tmp_path / "notes").exists()

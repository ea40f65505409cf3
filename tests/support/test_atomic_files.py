"""Files written as a whole, and links that are not followed."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest
from helpers import obstacle

from nnx_alexnet.support import atomic_files as files
from nnx_alexnet.support.atomic_files import (
    NotRegularFileError,
    numbered_folders,
    open_regular,
    parse_number,
    read_whole,
    remove_leftovers,
    write_whole,
)


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


def write_many(path, byte, problems):
    for _ in range(100):
        try:
            write_whole(path, byte * 20_000)
            content = path.read_bytes()
            if len(content) != 20_000 or len({*content}) != 1:
                problems.append("a torn file")
        except OSError as error:
            problems.append(repr(error))


def test_two_writers_of_one_file_never_mix_their_content(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # which would take most of the time
    problems = []
    threads = [
        threading.Thread(target=write_many, args=(tmp_path / "a.html", byte, problems))
        for byte in (b"1", b"2", b"3")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert listed(tmp_path) == ["a.html"]


def test_content_is_synced_before_and_the_name_after_replacing(tmp_path, monkeypatch):
    events, replace = [], Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda file: events.append(Path(f"/proc/self/fd/{file}").readlink().name)
    )
    monkeypatch.setattr(
        Path, "replace", lambda path, target: (events.append("replace"), replace(path, target))
    )
    write_whole(tmp_path / "a", b"x")
    temporary, *rest = events
    assert temporary.startswith(".nnx-alexnet-")
    assert rest == ["replace", tmp_path.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    (tmp_path / "a").write_bytes(b"old")

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os if step == "fsync" else Path, step, fail)
    with pytest.raises(OSError, match="Input/output"):
        write_whole(tmp_path / "a", b"new")
    assert (listed(tmp_path), (tmp_path / "a").read_bytes()) == (["a"], b"old")


def test_a_file_system_that_cannot_sync_folders_works(tmp_path, monkeypatch):
    def refuse(descriptor, sync=os.fsync):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    write_whole(tmp_path / "a", b"x")
    assert read_whole(tmp_path / "a") == b"x"


KINDS = ["link", "link to nothing", "fifo", "folder", "socket"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT])
def test_only_regular_files_are_opened_without_waiting(tmp_path, kind, flags):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with obstacle(tmp_path / "file", kind, victim):
        with pytest.raises(NotRegularFileError, match="file is not a regular file"):
            open_regular(tmp_path / "file", flags)
        with pytest.raises(OSError, match="regular"):
            read_whole(tmp_path / "file")
    assert victim.read_text() == "precious"
    assert not victim.with_name("nothing").exists()


def test_a_link_created_at_the_last_moment_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "file").symlink_to(tmp_path / "victim")
    regular = os.lstat(tmp_path / "victim")
    monkeypatch.setattr(files.os, "lstat", lambda _: regular)
    with pytest.raises(OSError, match="symbolic links"):
        open_regular(tmp_path / "file", os.O_RDWR)


@pytest.mark.parametrize("kind", ["link", "link to nothing", "fifo", "socket"])
def test_special_files_are_replaced_and_links_not_followed(tmp_path, kind):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with obstacle(tmp_path / "file", kind, victim):
        write_whole(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert not (tmp_path / "file").is_symlink()
    assert victim.read_text() == "precious"


def test_only_leftovers_of_killed_writers_are_removed(tmp_path):
    old = time.time() - 7200
    for name, age in [
        (".nnx-alexnet-0123456789abcdef.tmp", old),
        (".nnx-alexnet-fedcba9876543210.tmp", None),  # somebody may be writing it
        (".nnx-alexnet-0123456789abcdeg.tmp", old),
        ("mine.tmp", old),
    ]:
        (tmp_path / name).touch()
        if age is not None:
            os.utime(tmp_path / name, (age, age))
    remove_leftovers(tmp_path)
    assert listed(tmp_path) == [
        ".nnx-alexnet-0123456789abcdeg.tmp", ".nnx-alexnet-fedcba9876543210.tmp", "mine.tmp",
    ]  # fmt: skip
    remove_leftovers(tmp_path / "missing")


def test_permissions_are_those_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("text", ["", "-1", "+1", "01", "1_0", " 1", "1\n", "²", "٣", "1.0", "0x1"])
def test_only_canonical_numbers_are_parsed(text):
    assert parse_number(text) is None


def test_only_real_folders_with_canonical_numbers_are_listed(tmp_path):
    for name in ("v10", "v9", "v09", "v²", "9", "w9"):
        (tmp_path / name).mkdir()
    (tmp_path / "v11").touch()
    (tmp_path / "v12").symlink_to(tmp_path / "v9")
    assert [*numbered_folders(tmp_path, "v").items()] == [
        (9, tmp_path / "v9"),
        (10, tmp_path / "v10"),
    ]
    assert numbered_folders(tmp_path / "missing") == numbered_folders(tmp_path / "v11") == {}

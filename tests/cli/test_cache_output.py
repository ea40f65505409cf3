"""`nnx-alexnet cache`: filling, listing and removing caches."""

import operator
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from data_helpers import load_folder, same, write_images

from nnx_alexnet.cli import main
from nnx_alexnet.data import list_caches

num_records = operator.attrgetter("num_records")


@pytest.fixture
def photos(tmp_path):
    write_images(tmp_path / "photos", num=4)
    write_images(tmp_path / "photos", split="val", num=1)
    return tmp_path / "photos"


@pytest.fixture
def run(tmp_path, capsys):
    def run(*words, code=0):
        assert main(["cache", *map(str, words)]) == code
        return capsys.readouterr()

    return run


def data_options(photos, cache):
    options = ["--data", "folder", "--data.root", photos, "--data.image_size", 20]
    return [*options, "--data.num_workers", 0, "--data.cache", cache]


def test_a_cache_is_filled_listed_and_removed(tmp_path, photos, run, printed):
    out = run(*data_options(photos, tmp_path / "cache")).out
    (info,) = list_caches(tmp_path / "cache")
    parts = out.strip().split("  ")
    assert parts[:2] == [str(info.folder), "10 examples"]
    assert parts[4:] == [f"folder {photos}", "uint8[23, 23, 3]"]
    data = load_folder(photos, cache=tmp_path / "cache")
    assert len(data.train.cached.missing()) == len(data.val.cached.missing()) == 0
    assert run(*data_options(photos, tmp_path / "cache")).out == out
    assert run("--list", "--data.cache", tmp_path / "cache").out == out
    removed = run("--remove", info.folder.name, "--data.cache", tmp_path / "cache").out
    assert removed == f"Removed {out}"
    assert not info.folder.exists()
    listed = run("--list", "--data.cache", tmp_path / "cache")
    assert (listed.out, listed.err) == ("", f"There are no caches in {tmp_path / 'cache'}.\n")


def test_the_cache_folder_of_the_user_is_the_default(tmp_path, photos, run, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for cache in ("true", "false"):  # filling a cache needs one
        run(*data_options(photos, cache))
    (info,) = list_caches(tmp_path / "xdg" / "nnx_alexnet" / "decoded")
    assert run("--list").out.startswith(f"{info.folder}  10 examples  ")
    assert run("--remove", info.folder).out.startswith(f"Removed {info.folder}  ")


def test_uncacheable_data_and_unknown_caches_are_reported(tmp_path, photos, run, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "--data.cache is for map-style datasets" in run("--data", "digits", code=1).err
    assert "is not the folder of a cache" in run("--remove", photos, code=2).err
    assert photos.exists()
    (tmp_path / "studio.py").write_text(
        "from helpers import tiny_arrays\n"
        "from nnx_alexnet import DataModule\n"
        "def images():\n    return DataModule(tiny_arrays(), batch_size=8)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert "The data have no cache" in run("--data", "studio.images", code=1).err


def test_a_damaged_file_ends_the_filling_unless_it_is_skipped(tmp_path, photos, run):
    (photos / "train" / "dog" / "1.png").write_bytes(b"no image")
    options = data_options(photos, tmp_path / "cache")
    assert "train/dog/1.png: no known format" in run(*options, code=1).err
    out = run(*options, "--data.on_bad_sample", "skip").out
    assert out.split("  ")[1] == "9 examples"


@pytest.mark.slow
def test_a_command_killed_again_and_again_leaves_a_cache_that_others_complete(tmp_path):
    generator, photos = random.Random(0), tmp_path / "photos"
    write_images(photos, num=200, suffix="bmp")
    options = ["--data", "folder", "--data.root", photos, "--data.image_size", 227]
    options += ["--data.num_workers", 2, "--data.cache", tmp_path / "cache"]
    command = [sys.executable, "-m", "nnx_alexnet", "cache", *map(str, options)]
    counts = [0]
    while len(counts) < 8:
        job = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        before = counts[-1]
        while (
            job.poll() is None and sum(map(num_records, list_caches(tmp_path / "cache"))) == before
        ):
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.1))
        (os.kill if len(counts) % 2 else os.killpg)(job.pid, signal.SIGKILL)  # workers, too
        job.wait()
        counts.append(sum(map(num_records, list_caches(tmp_path / "cache"))))
    assert counts == sorted(counts)
    assert 0 < counts[1] < 400
    data = load_folder(photos, image_size=227, cache=tmp_path / "cache")
    data.fill_cache()
    plain = load_folder(photos, image_size=227)
    for one, other in ((data.train, plain.train), (data.val, plain.val)):
        assert same(one.batches(), other.batches())


@pytest.mark.slow
def test_two_commands_fill_a_cache_together(tmp_path):
    photos = tmp_path / "photos"
    write_images(photos, num=300, suffix="bmp")
    options = ["--data", "folder", "--data.root", photos, "--data.image_size", 227]
    options += ["--data.num_workers", 1, "--data.cache", tmp_path / "cache"]
    command = [sys.executable, "-m", "nnx_alexnet", "cache", *map(str, options)]
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for job in jobs:
        assert job.communicate()[0].split("  ")[1] == "600 examples"  # no example is there twice
        assert job.returncode == 0
    data = load_folder(photos, image_size=227, cache=tmp_path / "cache")
    assert len(data.train.cached.missing()) == len(data.val.cached.missing()) == 0
    assert same(data.val.batches(), load_folder(photos, image_size=227).val.batches())

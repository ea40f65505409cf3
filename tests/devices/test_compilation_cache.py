"""Compiled programs in the user's cache folder; each test fits in a new process."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from nnx_alexnet.devices import compilation_cache
from nnx_alexnet.devices.compilation_cache import Compiled, describe, use_compilation_cache

FIT = """
import numpy as np
from flax import nnx
from nnx_alexnet import Trainer
split = np.zeros((64, 4), np.float32), np.arange(64) % 2
model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))  # compiled before the Trainer sets the cache
Trainer(model, (split, split), max_epochs=1, log_dir=None).fit()
"""


def fit(tmp_path, **environment):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", FIT],
        env={**inherited, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path), **environment},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return next(line for line in done.stderr.splitlines() if " programs in " in line)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_second_process_finds_the_programs_of_the_first(tmp_path):
    folder = tmp_path / "nnx_alexnet" / "programs"
    first = fit(tmp_path)
    assert f"; 0 from the cache in {folder}" in first
    kept = files(folder)
    assert kept
    second = fit(tmp_path)
    assert "; 0 from the cache" not in second
    assert f"from the cache in {folder}" in second


@pytest.mark.slow
def test_an_existing_cache_is_used_and_caching_can_be_disabled(tmp_path):
    own = tmp_path / "own"
    line = fit(
        tmp_path, JAX_COMPILATION_CACHE_DIR=str(own), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0"
    )
    assert f"from the cache in {own}" in line
    assert files(own)
    assert fit(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false").endswith("no cache")
    assert not (tmp_path / "nnx_alexnet").exists()


def test_an_unwritable_cache_folder_is_not_an_error(tmp_path):
    (tmp_path / "nnx_alexnet").write_text("a file where the folder would be")
    assert fit(tmp_path).endswith("no cache")


@pytest.fixture
def chosen(monkeypatch):
    """Returns the folder that would be used, for given environment variables."""
    settings = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": None,
        "jax_compilation_cache_max_size": -1,
    }
    monkeypatch.setattr(compilation_cache, "_setting", settings.get)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)

    def choose(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return use_compilation_cache()

    return choose


def test_a_relative_cache_folder_is_ignored(chosen, tmp_path):
    folder = chosen(XDG_CACHE_HOME="relative", HOME=str(tmp_path))
    assert folder.startswith(f"{tmp_path}/.cache/nnx_alexnet/programs/")
    assert chosen(XDG_CACHE_HOME="", HOME=str(tmp_path)) == folder
    assert chosen(XDG_CACHE_HOME="~/elsewhere", HOME=str(tmp_path)) == folder


def test_a_cache_folder_whose_name_is_not_text_is_not_used(chosen, tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff"
    assert chosen(XDG_CACHE_HOME=os.fsdecode(name)) is None
    assert [*tmp_path.iterdir()] == []


@pytest.fixture
def programs(chosen, monkeypatch, tmp_path):
    """Four files of 100 bytes, where 250 bytes are allowed."""
    monkeypatch.setattr(compilation_cache, "_MAX_BYTES", 250)
    folder = Path(chosen(XDG_CACHE_HOME=str(tmp_path)))
    for number, (read, written) in enumerate([(40, 10), (20, 20), (5, 30), (10, 5)]):
        path = folder / f"{number}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (read, written))
    return folder


def test_the_least_recently_used_programs_are_deleted(programs, chosen):
    assert Path(chosen()) == programs
    assert [path.name for path in files(programs)] == ["0-cache", "2-cache"]


def test_the_users_own_limit_replaces_ours(programs, chosen):
    assert Path(chosen(JAX_COMPILATION_CACHE_MAX_SIZE="150")) == programs / "limited"
    assert len(files(programs)) == 4


def test_without_a_home_nothing_is_cached(chosen, monkeypatch):
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    monkeypatch.delenv("HOME")
    assert chosen(XDG_CACHE_HOME="") is None


def test_the_log_line_reports_programs_time_and_hits(monkeypatch):
    setting = {"jax_enable_compilation_cache": True, "jax_compilation_cache_dir": "/cache"}
    monkeypatch.setattr(compilation_cache, "_setting", setting.get)
    done = Compiled(9, 4, 2.5).since(Compiled(5, 1, 1.25))
    assert describe(done) == "Compiled 4 programs in 1.2 s; 3 from the cache in /cache"
    assert describe(Compiled(1, 0, 0.5)).startswith("Compiled 1 program in 0.5 s;")

import pytest
from helpers import write_run

from nnx_alexnet.runs.deletion import delete_run, folder_size
from nnx_alexnet.runs.lock import RunLock


def test_a_run_and_its_empty_parents_are_deleted(tmp_path):
    first = write_run(tmp_path / "logs", "sweep/a", [0.5])
    second = write_run(tmp_path / "logs", "sweep/a", [0.5])
    (second / "checkpoints/10").mkdir(parents=True)
    delete_run(first, tmp_path / "logs")
    assert not first.exists()
    assert second.is_dir()
    delete_run(second, tmp_path / "logs")
    assert [*tmp_path.rglob("*")] == [tmp_path / "logs"]


def test_a_run_that_is_being_written_is_kept(tmp_path):
    run_dir = write_run(tmp_path, "a", [0.5])
    lock = RunLock(run_dir)
    before = sorted(run_dir.iterdir())
    with pytest.raises(ValueError, match="is being written by process"):
        delete_run(run_dir, tmp_path)
    assert sorted(run_dir.iterdir()) == before
    lock.close()


def test_only_the_folder_of_a_run_is_deleted(tmp_path):
    (tmp_path / "photos").mkdir()
    run_dir = write_run(tmp_path / "elsewhere", "a", [0.5])
    (tmp_path / "link").symlink_to(run_dir)
    for folder in (tmp_path / "photos", tmp_path / "link", tmp_path / "missing"):
        with pytest.raises(ValueError, match="not the folder of a run"):
            delete_run(folder, tmp_path)
    assert (run_dir / "config.yaml").is_file()


def test_links_in_a_run_are_deleted_without_what_they_point_to(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/photo.png").write_bytes(b"12345")
    run_dir = write_run(tmp_path / "logs", "a", [0.5])
    size = folder_size(run_dir)
    (run_dir / "data").symlink_to(tmp_path / "data")
    assert folder_size(run_dir) == size
    delete_run(run_dir, tmp_path / "logs")
    assert (tmp_path / "data/photo.png").is_file()

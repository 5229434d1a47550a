"""Shards on the disk of a node: copied once, checked, reused, and the same clips either way."""

import multiprocessing
from pathlib import Path

import pytest
import synthetic_dataset
import torch

from configs.cluster import Staging
from configs.load import STAGED, ConfigError, dataset_path
from launch.jobs.staging import stage


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "shared" / "motions"
    synthetic_dataset.write_dataset(folder, [4] * 12)
    return folder


def copied(folder: Path, dataset: Path) -> dict[str, bool]:
    """Return the names of shards, each with whether it is a copy (or a link)."""
    shards = sorted(path.name for path in dataset.glob("*.tar"))
    assert all((folder / name).read_bytes() == (dataset / name).read_bytes() for name in shards)
    return {name: not (folder / name).is_symlink() for name in shards}


def test_shards_and_tables_are_copied_whole(dataset: Path, tmp_path: Path):
    folder = stage(dataset, ["train"], Staging(dir=str(tmp_path / "disk"), keep_free="0%"))
    assert folder.name == "motions"
    assert all(copied(folder, dataset).values())
    for name in ("dataset.yaml", "train.frames.npy", "train.videos.npy", "train.labels.npy"):
        assert (folder / name).read_bytes() == (dataset / name).read_bytes()


def test_what_lies_there_is_taken(dataset: Path, tmp_path: Path):
    staging = Staging(dir=str(tmp_path / "disk"), keep_free="0%")
    folder = stage(dataset, ["train"], staging)
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert stage(dataset, ["train"], staging) == folder
    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == before


def test_what_does_not_fit_is_read_in_place(dataset: Path, tmp_path: Path):
    folder = stage(dataset, ["train"], Staging(dir=str(tmp_path / "disk"), keep_free="100%"))
    assert not any(copied(folder, dataset).values())


def test_a_damaged_copy_is_a_link_to_the_original(dataset: Path, tmp_path: Path, monkeypatch):
    real = stage.__globals__["shutil"].copyfile

    def damage(source: Path, copy: Path) -> None:
        real(source, copy)
        if Path(source).name == "train-00001.tar":
            data = bytearray(Path(copy).read_bytes())
            data[600] ^= 1  # inside the first frame: headers of tar take 512 bytes
            Path(copy).write_bytes(data)

    monkeypatch.setattr("launch.jobs.staging.shutil.copyfile", damage)
    folder = stage(dataset, ["train"], Staging(dir=str(tmp_path / "disk"), keep_free="0%"))
    assert [name for name, is_copy in copied(folder, dataset).items() if not is_copy] == [
        "train-00001.tar"
    ]


def test_a_copy_that_was_not_compared_is_not_taken(dataset: Path, tmp_path: Path, monkeypatch):
    staging = Staging(dir=str(tmp_path / "disk"), keep_free="0%")

    def killed(_: bytes) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("launch.jobs.staging.zlib.crc32", killed)
    with pytest.raises(KeyboardInterrupt):
        stage(dataset, ["train"], staging)
    assert not list((tmp_path / "disk").glob("tin-*/motions/train-*.tar"))
    monkeypatch.undo()
    assert all(copied(stage(dataset, ["train"], staging), dataset).values())


def test_the_clips_are_the_same_either_way(dataset: Path, tmp_path: Path, monkeypatch):
    folder = stage(dataset, ["train"], Staging(dir=str(tmp_path / "disk")))
    monkeypatch.setenv(STAGED, str(folder))
    assert dataset_path(str(dataset)) == folder
    with synthetic_dataset.clip_loaders() as make:
        here, there = ([batch.x for batch in make(f).epoch(0)] for f in (dataset, folder))
    assert len(here) == len(there) == 3
    assert all(map(torch.equal, here, there))


def test_another_dataset_is_not_taken_for_the_staged_one(
    dataset: Path, tmp_path: Path, monkeypatch
):
    folder = stage(dataset, ["train"], Staging(dir=str(tmp_path / "disk")))
    other = tmp_path / "other"
    synthetic_dataset.write_dataset(other, [4] * 8)
    monkeypatch.setenv(STAGED, str(folder))
    assert dataset_path(str(other)) == other


def test_processes_of_a_node_wait_for_the_one_that_copies(dataset: Path, tmp_path: Path):
    staging = Staging(dir=str(tmp_path / "disk"), keep_free="0%")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        folders = pool.starmap(stage, [(dataset, ["train"], staging)] * 3)
    assert len(set(folders)) == 1
    assert all(copied(folders[0], dataset).values())


def test_a_variable_that_the_job_lacks_is_named(dataset: Path):
    with pytest.raises(ConfigError, match=r"stage.dir \$TIN_NO_SUCH_DISK: .* is no folder"):
        stage(dataset, ["train"], Staging(dir="$TIN_NO_SUCH_DISK"))

"""Shards on a node's disk: copied once, checked, reused; the clips do not depend on staging."""

import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

import pytest
import synthetic_dataset
import torch

from configs.cluster import Staging
from configs.files import temporary_path
from configs.load import STAGED, ConfigError, dataset_path
from launch.jobs import staging
from launch.jobs.staging import StagingError, copy_shards, wait_for_nodes
from tin.ranks.dataset_check import compare_copies
from tin.ranks.distributed import World


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "shared" / "motions"
    synthetic_dataset.write_dataset(folder, [4] * 12)
    return folder


def copied(folder: Path, dataset: Path) -> dict[str, bool]:
    """Return the names of shards, each with whether it is a copy (True) or a link (False)."""
    shards = sorted(path.name for path in dataset.glob("*.tar"))
    assert all((folder / name).read_bytes() == (dataset / name).read_bytes() for name in shards)
    return {name: not (folder / name).is_symlink() for name in shards}


def test_shards_and_tables_are_copied_completely(dataset: Path, tmp_path: Path):
    folder = copy_shards(dataset, ["train"], Staging(dir=str(tmp_path / "disk"), keep_free="0%"))
    assert folder.name == "motions"
    assert all(copied(folder, dataset).values())
    for name in ("dataset.yaml", "train.frames.npy", "train.videos.npy", "train.labels.npy"):
        assert (folder / name).read_bytes() == (dataset / name).read_bytes()


def test_existing_copies_are_reused(dataset: Path, tmp_path: Path):
    staging = Staging(dir=str(tmp_path / "disk"), keep_free="0%")
    folder = copy_shards(dataset, ["train"], staging)
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert copy_shards(dataset, ["train"], staging) == folder
    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == before


def test_a_shard_that_changed_is_copied_again(dataset: Path, tmp_path: Path):
    staging = Staging(dir=str(tmp_path / "disk"), keep_free="0%")
    folder = copy_shards(dataset, ["train"], staging)
    before = {path.name: path.stat().st_ino for path in folder.glob("*.tar")}
    os.utime(dataset / "train-00001.tar", (1000, 1000))
    copy_shards(dataset, ["train"], staging)
    changed = {
        path.name for path in folder.glob("*.tar") if path.stat().st_ino != before[path.name]
    }
    assert changed == {"train-00001.tar"}


def test_shards_that_do_not_fit_are_read_from_their_source(dataset: Path, tmp_path: Path):
    folder = copy_shards(dataset, ["train"], Staging(dir=str(tmp_path / "disk"), keep_free="100%"))
    assert not any(copied(folder, dataset).values())


def test_a_damaged_copy_becomes_a_link_to_its_source(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = shutil.copyfileobj

    def damage(source: BinaryIO, copy: BinaryIO, length: int) -> None:
        real(source, copy, length)
        if Path(source.name).name == "train-00001.tar":
            copy.seek(600)  # inside the first frame: headers of tar take 512 bytes
            copy.write(b"\0\0")

    monkeypatch.setattr("launch.jobs.staging.shutil.copyfileobj", damage)
    folder = copy_shards(dataset, ["train"], Staging(dir=str(tmp_path / "disk"), keep_free="0%"))
    assert [name for name, is_copy in copied(folder, dataset).items() if not is_copy] == [
        "train-00001.tar"
    ]
    assert not list(folder.glob(".*"))


def test_a_copy_that_was_not_compared_is_not_used(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    staging = Staging(dir=str(tmp_path / "disk"), keep_free="0%")

    def killed(_: bytes) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("launch.jobs.staging.zlib.crc32", killed)
    with pytest.raises(KeyboardInterrupt):
        copy_shards(dataset, ["train"], staging)
    assert not list((tmp_path / "disk").glob("tin-*/motions/train-*.tar"))
    monkeypatch.undo()
    assert all(copied(copy_shards(dataset, ["train"], staging), dataset).values())


def test_partial_copies_of_a_killed_job_are_removed(dataset: Path, tmp_path: Path):
    staging = Staging(dir=str(tmp_path / "disk"), keep_free="0%")
    folder = copy_shards(dataset, ["train"], staging)
    partial = temporary_path(folder / "train-00001.tar")
    partial.write_bytes(b"half")
    copy_shards(dataset, ["train"], staging)
    assert not partial.exists()


def test_the_clips_are_the_same_with_and_without_staging(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = copy_shards(dataset, ["train"], Staging(dir=str(tmp_path / "disk")))
    monkeypatch.setenv(STAGED, str(folder))
    assert dataset_path(str(dataset)) == folder
    with synthetic_dataset.clip_loaders() as make:
        here, there = ([batch.x for batch in make(f).epoch(0)] for f in (dataset, folder))
    assert len(here) == len(there) == 3
    assert all(map(torch.equal, here, there))


def test_another_dataset_is_not_mistaken_for_the_staged_one(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = copy_shards(dataset, ["train"], Staging(dir=str(tmp_path / "disk")))
    other = tmp_path / "other"
    synthetic_dataset.write_dataset(other, [4] * 8)
    monkeypatch.setenv(STAGED, str(folder))
    assert dataset_path(str(other)) == other


def test_processes_of_a_node_wait_for_the_one_that_copies(dataset: Path, tmp_path: Path):
    staging = Staging(dir=str(tmp_path / "disk"), keep_free="0%")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        folders = pool.starmap(copy_shards, [(dataset, ["train"], staging)] * 3)
    assert len(set(folders)) == 1
    assert all(copied(folders[0], dataset).values())


def test_a_variable_that_the_job_lacks_is_named(dataset: Path):
    with pytest.raises(ConfigError, match=r"staging.dir \$TIN_NO_SUCH_DISK: .* is not a folder"):
        copy_shards(dataset, ["train"], Staging(dir="$TIN_NO_SUCH_DISK"))


LOCAL_JOB = {
    "SUBMITIT_EXECUTOR": "local",
    "SUBMITIT_LOCAL_JOB_ID": "7",
    "SUBMITIT_LOCAL_GLOBALID": "0",
    "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
}


@pytest.mark.parametrize("environment", [LOCAL_JOB, {}], ids=["local", "debug"])
def test_a_job_of_this_machine_waits_for_no_other_node_of_an_allocation(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in {**environment, "SLURM_JOB_NUM_NODES": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("launch.jobs.staging.time.sleep", _hang)
    wait_for_nodes(tmp_path)


def test_the_nodes_of_a_slurm_job_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in {
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
    }.items():
        monkeypatch.setenv(name, value)
    waits: list[float] = []

    def other_node_arrives(seconds: float) -> None:
        waits.append(seconds)
        (tmp_path / "job" / "staged" / "7-0" / "node2").touch()

    monkeypatch.setattr("launch.jobs.staging.time.sleep", other_node_arrives)
    wait_for_nodes(tmp_path)
    assert len(waits) == 1


def test_the_meeting_of_the_nodes_is_bounded_and_names_those_that_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in {
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURMD_NODENAME": "node1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("launch.jobs.staging.MEETING_S", 0.0)
    with pytest.raises(StagingError, match="only node1 of 2 nodes have their shards"):
        wait_for_nodes(tmp_path)


def _copy_as(number: int, user: str, dataset: Path, disk: Path, found: Path) -> None:
    """Copy as a user who is not root, and write down where the copies are."""
    os.setgroups([])
    os.setgid(number)
    os.setuid(number)
    staging.getpass.getuser = lambda: user
    folder = copy_shards(dataset, ["train"], Staging(dir=str(disk), keep_free="0%"))
    found.write_text(str(folder))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become two other users")
def test_a_staging_folder_works_for_a_second_user(dataset: Path):
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o1777)
        shutil.copytree(dataset, folder / "data")
        copies = {}
        for user, number in (("first", 12345), ("second", 12346)):
            found = folder / user
            process = multiprocessing.get_context("fork").Process(
                target=_copy_as, args=(number, user, folder / "data", folder / "disk", found)
            )
            process.start()
            process.join(300)
            assert process.exitcode == 0
            copies[user] = Path(found.read_text())
        assert copies["first"].parent.parent == folder / "disk"
        assert copies["second"].parent.parent == folder / "disk-second"
        assert all(all(copied(copy, dataset).values()) for copy in copies.values())


def _hang(seconds: float) -> None:
    raise AssertionError("waits for a node that does not exist")


def test_a_copy_that_changes_during_training_is_read_from_its_original(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
    """Each epoch compares the copies; the clips stay the same."""
    folder = copy_shards(dataset, ["train"], Staging(dir=str(tmp_path / "disk"), keep_free="0%"))
    monkeypatch.setenv(STAGED, str(folder))
    world = World(0, 0, 1, torch.device("cpu"))
    with synthetic_dataset.clip_loaders() as make:
        loader = make(folder)
        expected = [batch.x.clone() for batch in loader.epoch(0)]
        (folder / "train-00001.tar").write_bytes(b"garbage")
        compare_copies(world, str(dataset), loader)
        found = [batch.x.clone() for batch in loader.epoch(0)]
        assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
        assert loader.take_bad_frames() == []
    assert f"{folder / 'train-00001.tar'} is not the copy" in caplog.text

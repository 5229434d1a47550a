"""Shards on the disk of each node: copied once, checked, reused; the rest is read where it is."""

import fcntl
import logging
import os
import shutil
import socket
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs.cluster import Staging
from configs.load import ConfigError
from launch.record import place
from preprocess.shards import Split, open_split, read_info
from tin.runs.folder import Run

log = logging.getLogger(__name__)
NAME = "tin-{digest}"  # of the folder below `stage.dir`: equal data lie in one place


def stage(dataset: Path, splits: Sequence[str], staging: Staging) -> Path:
    """Copy the shards and tables of splits to this node's disk; return the folder to read.

    One process of a node copies, the others wait for it. What lies there already is taken; a shard
    that does not fit, or whose copy is damaged, is a link to the original.

    Args:
        dataset: folder of the dataset.
        splits: those that will be read.
        staging: where to, and how much of that disk stays free.

    Raises:
        ConfigError: the folder cannot be used on this node.
    """
    root = _root(staging)
    info = read_info(dataset)
    target = root / NAME.format(digest=info.digest[:16]) / dataset.name
    keep_free = shutil.disk_usage(root).total * float(staging.keep_free.rstrip("%")) / 100
    began, copied, linked = time.monotonic(), 0, 0
    with (root / f".{target.parent.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        target.mkdir(parents=True, exist_ok=True)
        for split in dict.fromkeys(splits):
            for file in sorted(dataset.glob(f"{split}.*")):
                _copy(file, target / file.name)
            tables = open_split(dataset, split)
            for number in np.unique(tables.frames["shard"]).tolist():
                shard = tables.shard_path(number)
                copy = target / shard.name
                if _is_copy(shard, copy):
                    continue
                size = shard.stat().st_size
                fits = shutil.disk_usage(root).free - size >= keep_free
                if fits and _copy_checked(tables, number, copy):
                    copied += size
                else:
                    _link(shard, copy)
                    linked += size
        for name in ("plan.yaml", "dataset.yaml"):  # dataset.yaml last: with it, it is whole
            if (dataset / name).exists():
                _copy(dataset / name, target / name)
    if copied or linked:
        log.info(
            "%s: %.3f GB copied to %s in %.0f s, %.3f GB stay where they are",
            socket.gethostname(), copied / 1e9, target, time.monotonic() - began, linked / 1e9,
        )  # fmt: skip
    return target


def meet(run: Path) -> None:
    """Wait until every node of the job has its shards; the ranks may then look for each other."""
    job_id, restart, _ = place()
    folder = Run(run).job / "staged" / f"{job_id}-{restart}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / socket.gethostname()).touch()
    while len(list(folder.iterdir())) < int(os.environ.get("SLURM_JOB_NUM_NODES", 1)):
        time.sleep(0.5)


def _root(staging: Staging) -> Path:
    text = str(Path(os.path.expandvars(staging.dir)).expanduser()) if staging.dir else ""
    if "$" in text or not text:
        raise ConfigError(
            f"stage.dir {staging.dir}: {text or 'nothing'} is no folder on {socket.gethostname()};"
            " name a variable that the job has, or a path"
        )
    try:
        Path(text).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"stage.dir {text} on {socket.gethostname()}: {error.strerror}") from None
    return Path(text)


def _is_copy(source: Path, copy: Path) -> bool:
    if copy.is_symlink() or not copy.exists():
        return False
    ours, theirs = copy.stat(), source.stat()
    return (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)


def _copy(source: Path, copy: Path) -> None:
    if _is_copy(source, copy):
        return
    _copy_aside(source, copy).replace(copy)


def _copy_aside(source: Path, copy: Path) -> Path:
    aside = copy.with_name(f".{copy.name}")
    shutil.copyfile(source, aside)
    shutil.copystat(source, aside)
    return aside


def _copy_checked(split: Split, shard: int, copy: Path) -> bool:
    """Copy a shard; it gets its name when each frame has its checksum, so a kill does no harm."""
    try:
        aside = _copy_aside(split.shard_path(shard), copy)
        data = np.memmap(aside, mode="r")
        rows = split.frames[split.frames["shard"] == shard]
        for _, offset, size, crc32 in rows.tolist():
            if zlib.crc32(data[offset : offset + size]) != crc32:
                raise OSError(f"frame at byte {offset} has another checksum")
        aside.replace(copy)
    except OSError as error:
        log.warning("%s: %s: %s; the original is read", socket.gethostname(), copy, error)
        return False
    return True


def _link(source: Path, copy: Path) -> None:
    aside = copy.with_name(f".{copy.name}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(source.absolute())
    aside.replace(copy)

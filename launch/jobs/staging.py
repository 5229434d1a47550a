"""Copies shards to the local disk of each node: once, checked, and reused by later jobs.

A shard that does not fit, or whose copy is damaged, is read from its source through a link.
"""

import fcntl
import getpass
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import submitit

from configs.cluster import Staging
from configs.errors import TinError
from configs.files import BUFFER_BYTES, atomic_file, remove_leftovers, write_link
from configs.load import ConfigError
from configs.node import node_name
from launch.record import place
from preprocess.copies import is_copy
from preprocess.shards import Split, open_split, read_info
from tin.runs.folder import Run

log = logging.getLogger(__name__)
FOLDER_NAME = "tin-{digest}"
"""Folder below `staging.dir`; datasets with the same digest share it."""


LOCK = ".lock"
LAST = ("plan.yaml", "dataset.yaml")
"""Files that are copied last."""
MEETING_S = 3600.0
"""How long a node waits for the copies of the other nodes."""


class StagingError(TinError):
    """The nodes of a job did not finish their copies together."""


class DamagedCopyError(TinError):
    """A frame of a copied shard does not have its checksum."""


def copy_shards(dataset: Path, splits: Sequence[str], staging: Staging) -> Path:
    """Copy the shards and tables of splits to this node's disk; return the folder to read.

    One process of a node copies while the others wait for it. Copies of earlier jobs are reused.

    Args:
        dataset: folder of the dataset.
        splits: names of the splits that will be read.
        staging: the folder on the node's disk, and the share of that disk to keep free.

    Raises:
        ConfigError: the folder cannot be used on this node.
    """
    began = time.monotonic()
    info = read_info(dataset)
    folder = _folder(_root(staging), FOLDER_NAME.format(digest=info.digest[:16]))
    target = folder / dataset.name
    keep_free = shutil.disk_usage(folder).total * float(staging.keep_free.rstrip("%")) / 100
    copied = 0
    linked = 0
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        target.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)  # safe: whoever writes here holds the lock
        for split in dict.fromkeys(splits):
            split_copied, split_linked = _copy_split(dataset, split, target, keep_free)
            copied += split_copied
            linked += split_linked
        # dataset.yaml comes last: a folder that has it is complete.
        for name in LAST:
            if (dataset / name).exists():
                _copy(dataset / name, target / name)
    if copied or linked:
        log.info(
            "%s: %.3f GB copied to %s in %.0f s, %.3f GB are read from their source",
            node_name(),
            copied / 1e9,
            target,
            time.monotonic() - began,
            linked / 1e9,
        )
    return target


def wait_for_nodes(run_dir: Path) -> None:
    """Wait until every node of the job has its shards; the ranks then meet within their timeout.

    Each node creates a file in the run folder and waits for the files of the other nodes.
    """
    job_id, restart, _ = place()
    if job_id == "debug":
        return
    num_nodes = submitit.JobEnvironment().num_nodes
    folder = Run(run_dir).job / "staged" / f"{job_id}-{restart}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / node_name()).touch()
    deadline = time.monotonic() + MEETING_S
    while len(ready := sorted(path.name for path in folder.iterdir())) < num_nodes:
        if time.monotonic() > deadline:
            raise StagingError(
                f"only {', '.join(ready)} of {num_nodes} nodes have their shards {MEETING_S / 60:g}"
                f" minutes after {node_name()}: look for a slow disk among the other nodes of the"
                " job, or remove `staging` from the cluster file"
            )
        time.sleep(0.5)


def _root(staging: Staging) -> Path:
    """Return `staging.dir` with its variables expanded."""
    text = str(Path(os.path.expandvars(staging.dir)).expanduser()) if staging.dir else ""
    if "$" in text or not text:
        raise ConfigError(
            f"staging.dir {staging.dir}: {text or 'an empty name'} is not a folder on"
            f" {node_name()}; set staging.dir to a path, or to a variable that jobs have"
        )
    return Path(text)


def _folder(root: Path, name: str) -> Path:
    """Return a folder for the copies of a dataset that this user may write to.

    Users share the copies where the rights of the first user's files allow it. Otherwise each has
    a folder of their own, in `root` or, if another user has created that, beside it.
    """
    user = getpass.getuser()
    candidates = [
        root / name,
        root / f"{name}-{user}",
        root.with_name(f"{root.name}-{user}") / name,
    ]
    for folder in candidates:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / LOCK).open("a"):
                pass
            if all(os.access(path, os.W_OK) for path in folder.iterdir() if path.is_dir()):
                return folder
        except OSError as error:
            reason = error.strerror
    raise ConfigError(f"staging.dir {root} on {node_name()}: {reason}")


def _copy_split(dataset: Path, split: str, target: Path, keep_free: float) -> tuple[int, int]:
    """Copy the tables and shards of a split; return the bytes of shards copied and linked."""
    for file in sorted(dataset.glob(f"{split}.*")):
        _copy(file, target / file.name)
    tables = open_split(dataset, split)
    copied = 0
    linked = 0
    for number in np.unique(tables.frames["shard"]).tolist():
        shard = tables.shard_path(number)
        copy = target / shard.name
        if is_copy(shard, copy):
            continue
        size = shard.stat().st_size
        fits = shutil.disk_usage(target).free - size >= keep_free
        if fits and _copy_shard(tables, number, copy):
            copied += size
        else:
            write_link(copy, shard.absolute())
            linked += size
    return copied, linked


def _copy(source: Path, copy: Path, check: Callable[[Path], None] | None = None) -> None:
    """Copy a file with its time of change, unless that was done before.

    `check` gets the path of the finished bytes; the copy gets its name only if `check` returns.
    """
    if is_copy(source, copy):
        return
    with source.open("rb") as original, atomic_file(copy) as file:
        shutil.copyfileobj(original, file, BUFFER_BYTES)
        file.flush()  # a later write would change the time again
        shutil.copystat(source, file.name)
        if check:
            check(Path(file.name))


def _copy_shard(split: Split, shard: int, copy: Path) -> bool:
    """Copy a shard and compare all its frames; return False if the source must be read instead."""

    def check(file: Path) -> None:
        data = np.memmap(file, mode="r").data
        rows = split.frames[split.frames["shard"] == shard]
        for _, offset, size, crc32 in rows.tolist():
            if zlib.crc32(data[offset : offset + size]) != crc32:
                raise DamagedCopyError(f"the frame at byte {offset} has another checksum")

    try:
        _copy(split.shard_path(shard), copy, check)
    except (OSError, DamagedCopyError) as error:
        log.warning(
            "%s: copy of a shard to %s failed (%s); the source is read instead",
            node_name(),
            copy,
            error,
        )
        return False
    return True

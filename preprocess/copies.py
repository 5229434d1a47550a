"""Copies of shards on the disk of a node: compared with their originals, and replaced by links."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from configs.files import write_link
from preprocess.shards import open_split, read_info
from preprocess.tars import ShardError

READERS = 16
"""Files that are compared at the same time, because a network file system is slow to answer."""


def is_copy(source: Path, copy: Path) -> bool:
    """Return whether `copy` was made from `source` as it is now: equal size and time of change."""
    if copy.is_symlink() or not copy.exists():
        return False
    ours = copy.stat()
    theirs = source.stat()
    return (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)


def replace_changed(copies: Path, originals: Path, split: str) -> list[str]:
    """Replace each shard whose copy or original has changed by a link to the original.

    The checksums of the frames then decide what can be used of the original.

    Returns:
        The names of these shards.

    Raises:
        ShardError: the original is now another dataset, or a shard of it is missing.
    """
    if read_info(originals).digest != read_info(copies).digest:
        raise ShardError(
            f"{originals} is another dataset than when it was copied to {copies}: its digest"
            " differs. Restore it, or train a new run on the new dataset."
        )
    tables = open_split(copies, split)
    names = [tables.shard_path(shard).name for shard in np.unique(tables.frames["shard"]).tolist()]

    def has_changed(name: str) -> bool:
        copy = copies / name
        return not (copy.is_symlink() or is_copy(originals / name, copy))

    try:
        with ThreadPoolExecutor(READERS, thread_name_prefix="compare-copies") as pool:
            flags = list(pool.map(has_changed, names))
    except FileNotFoundError as error:
        raise ShardError(f"{error.filename}: the original of a copied shard is missing") from None
    changed = [name for name, flag in zip(names, flags, strict=True) if flag]
    for name in changed:
        write_link(copies / name, (originals / name).absolute())
    return changed

"""Checks the dataset of a run: once per start, while the model is built, and copies each epoch.

Rank 0 reads the tables of the dataset. If the nodes have copies on their own disks, one rank of
each node reads its copy.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from configs.errors import TinError
from configs.load import original_dataset_path
from configs.node import node_name
from pipeline.loader import ClipLoader
from preprocess.copies import replace_changed
from preprocess.integrity import check_dataset
from preprocess.tars import ShardError
from tin.ranks.distributed import World

log = logging.getLogger(__name__)


class DatasetCheck:
    """A check that runs in a thread from its creation until `finish`."""

    def __init__(self, world: World, name: str, folder: Path, splits: Sequence[str]):
        """Start to check the splits of `folder`, which is the dataset `name` or a copy of it."""
        self._world = world
        is_copy = folder != original_dataset_path(name)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="check-dataset")
        self._problem: Future[str] | None = None
        if world.is_main or (is_copy and world.local_rank == 0):
            self._problem = self._pool.submit(_problem, folder, splits)

    def finish(self) -> None:
        """Wait for the checks of all ranks; all ranks must call.

        Raises:
            ShardError: on all ranks, if one of them found a problem.
        """
        own = self._problem.result() if self._problem else ""
        self._pool.shutdown()
        problems = self._world.broadcast(self._world.gather(own))
        first = next(filter(None, problems), "")
        if first:
            raise ShardError(first)


def compare_copies(world: World, name: str, loader: ClipLoader) -> None:
    """Compare the staged shards of a loader with their originals; all ranks must call.

    A shard that has changed is read from its original from here on, and named in the log.

    Raises:
        ShardError: on all ranks, if the original is another dataset now.
    """
    copies = loader.split.folder
    originals = original_dataset_path(name)
    if copies == originals:
        return
    problem = ""
    if world.local_rank == 0:
        try:
            for shard in replace_changed(copies, originals, loader.split.name):
                log.warning(
                    "%s: %s is not the copy of %s any more; the original is read instead",
                    node_name(),
                    copies / shard,
                    originals / shard,
                )
        except (TinError, OSError) as error:
            problem = str(error)
    first = next(filter(None, world.broadcast(world.gather(problem))), "")
    if first:
        raise ShardError(first)
    loader.reopen()


def _problem(folder: Path, splits: Sequence[str]) -> str:
    """Return what is wrong with the splits of a dataset; empty if nothing is."""
    try:
        check_dataset(folder, splits)
    except TinError as error:
        return str(error)
    return ""

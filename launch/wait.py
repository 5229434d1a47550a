"""Waits for the jobs of runs: for scripts and notebooks."""

import logging
import time
from collections.abc import Iterable
from pathlib import Path

from launch.live_jobs import active
from launch.slurm_query import SlurmError
from launch.status import RunStatus, statuses

log = logging.getLogger(__name__)
EVERY_S = 10.0


def wait(run_dirs: Iterable[Path], every_s: float = EVERY_S) -> list[RunStatus]:
    """Wait until no job of the runs is queued or running; return how the runs ended.

    A Slurm that does not answer is asked again.

    Args:
        run_dirs: folders of the runs, for example the keys of `Submission.configs`.
        every_s: seconds between two questions to Slurm.
    """
    found = list(run_dirs)
    while True:
        try:
            if not active(found):
                return statuses(found)[0]
        except SlurmError as error:
            log.warning("%s; asking again in %g s", error, every_s)
        time.sleep(every_s)

"""A rank of a Slurm job: it reads which stage of which run to execute, and executes it.

srun starts `python -m launch.jobs.rank TASKS`, where `TASKS` is the path, without its ending, of
the files that `launch.submission.sbatch` wrote. Signals are handled from the first line on: what
srun starts takes seconds to import, and a signal in that time must not look like a crash.
"""

import os
import signal
import sys
from types import FrameType

EXIT_CODE = 75  # configs.errors.STOPPED, which is not imported yet


def main(tasks: str) -> None:
    """Run this rank of the job, or of the task of an array."""
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, _leave)
    from launch.jobs.job import load_task

    load_task(tasks)()


def _leave(_: int, __: FrameType | None) -> None:
    """End the process at once: nothing has begun yet."""
    os._exit(EXIT_CODE)


if __name__ == "__main__":
    main(sys.argv[1])

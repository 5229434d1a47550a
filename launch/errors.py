"""How commands and jobs speak: one line and an exit code for an error, a log for the rest."""

import logging
import os

from configs.errors import FAILED, TinError

ASK = 74  # of launch.jobs.requeue, where no command of Slurm is: the batch script shall requeue


def exit_code(error: Exception) -> int:
    """Return the exit code that stands for an error: its own, or 1 for a foreign one."""
    return error.exit_code if isinstance(error, TinError) else FAILED


def explain(error: Exception) -> str:
    """Return what an error says, with its kind where the text alone would not be clear."""
    text = str(error).strip()
    if text and (isinstance(error, (ValueError, OSError)) or type(error).__module__ != "builtins"):
        return text
    return f"{type(error).__name__}: {text or 'no more is known'}"


def set_up_libraries() -> None:
    """Set what OpenMP and torch read once, when they are first imported."""
    # threads that spin while they wait take the CPU from DALI's
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # else DDP warns at each start of find_unused_parameters, which our resuming needs
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def set_up_logging(rank: int) -> None:
    """Log to stderr: rank 0 what happens, the others only what is wrong."""
    logging.basicConfig(
        level=logging.WARNING if rank else logging.INFO,
        format=f"%(asctime)s {f'rank {rank} ' if rank else ''}%(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    logging.getLogger("submitit").propagate = False  # it has a handler of its own

"""Errors and logs of commands and jobs: one line and an exit code for an error."""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from configs.errors import FAILED, TinError
from configs.progress import QUIET

ASK = 74
"""Exit code of `launch.jobs.requeue` where it finds no Slurm commands, as in a container: it asks
the batch script to requeue the job."""


def exit_code(error: Exception) -> int:
    """Return the exit code that an error carries; 1 if it is not an error of this project."""
    return error.exit_code if isinstance(error, TinError) else FAILED


def explain(error: Exception) -> str:
    """Return the text of an error, after the name of its type if the text alone is unclear.

    For example, the text of a KeyError is nothing but the missing key.
    """
    if isinstance(error, OSError) and error.filename and not isinstance(error, TinError):
        advice = "; choose a folder that you may write to" if error.errno == errno.EROFS else ""
        return f"{error.filename}: {error.strerror}{advice}"
    text = str(error).strip()
    is_clear = isinstance(error, (ValueError, OSError)) or type(error).__module__ != "builtins"
    if text and is_clear:
        return text
    return f"{type(error).__name__}: {text or 'no details'}"


def set_up_libraries() -> None:
    """Set the environment variables that OpenMP and torch read when they are first imported."""
    # OpenMP threads that spin while they wait would take CPU time from DALI's threads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # DDP warns about find_unused_parameters at each start, but a bit-equal resume needs it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def set_up_logging(rank: int) -> None:
    """Log to stderr: events on rank 0, and only warnings and errors on other ranks or if quiet."""
    name = f"rank {rank} " if rank else ""
    logging.basicConfig(
        level=logging.WARNING if rank or os.environ.get(QUIET) else logging.INFO,
        format=f"%(asctime)s {name}%(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    logging.getLogger("submitit").propagate = False  # it has a handler of its own
    for name in ("onnx_ir", "onnxscript"):  # at INFO, they log each operator that they rewrite
        logging.getLogger(name).setLevel(logging.WARNING)


@contextlib.contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Also append the log, and the error that ends the context, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except Exception as error:
        text = f"tin: {explain(error)}"
        handler.emit(logging.LogRecord("tin", logging.ERROR, "", 0, text, None, None))
        raise
    finally:
        root.removeHandler(handler)
        handler.close()

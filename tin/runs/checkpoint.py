"""Checkpoints: written atomically, found newest first, and checked when they are loaded."""

import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from configs.errors import TinError
from tin.models.tensor_files import (
    TensorFileError,
    check_members,
    first_not_finite,
    read_tensors,
    write_tensors,
)
from tin.runs.folder import Run

log = logging.getLogger(__name__)
FORMAT = 1
KEPT = 2  # the newest checkpoints by step, unless the run keeps more; best.pt is kept in addition
NAME = re.compile(r"step-(\d{8})-a(\d{2,})\.pt")


class CheckpointError(TinError, ValueError):
    """A checkpoint that cannot be used here; the message names the file and the reason."""

    is_final = True


class NewerFormatError(CheckpointError):
    """A checkpoint of a newer version of tin-video; no older checkpoint is used in its place."""


def save(run: Run, state: dict[str, Any], name: str | None = None, kept: int = KEPT) -> Path:
    """Write `state` as step-<step>-a<attempt>.pt, or as `name`, and remove older checkpoints.

    The run's CSV files are flushed first, so that after a power failure they have every row up to
    the step of the checkpoint. The newest `kept` checkpoints by step remain; older ones are removed
    only after the new one was read back.

    Raises:
        FencedError: a newer attempt has started on the run.
        TensorFileError: a tensor has NaN or infinite values; nothing is written.
        WriteError: the disk is full or not writable; earlier checkpoints are intact.
    """
    run.sync_rows()
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    path = run.checkpoints / (name or step_name(state["global_step"], run.attempt))
    content = {"format": FORMAT, **state}
    write_tensors(path, content, check=run.check_fence, advice=_advice(run))
    for old in newest_first(run)[kept:]:
        old.unlink(missing_ok=True)
    _remove_leftovers(run)
    return path


def step_name(step: int, attempt: int) -> str:
    """Return the name of the checkpoint of a step and an attempt."""
    return f"step-{step:08d}-a{attempt:02d}.pt"


def newest_first(run: Run) -> list[Path]:
    """Return the checkpoints that are named by step: highest step first, then newest attempt."""
    found = []
    for path in run.checkpoints.glob("step-*.pt"):
        if name := NAME.fullmatch(path.name):
            found.append((int(name[1]), int(name[2]), path))
    return [path for _, _, path in sorted(found, reverse=True)]


def newest(run: Run) -> Path | None:
    """Return the checkpoint of the highest step and, at that step, of the newest attempt.

    Return None if the run has no checkpoint.
    """
    return next(iter(newest_first(run)), None)


def best(run: Run) -> Path | None:
    """Return the checkpoint with the best metric so far; None if there is none."""
    path = run.checkpoints / "best.pt"
    return path if path.exists() else None


def load_newest(run: Run) -> dict[str, Any] | None:
    """Return the newest checkpoint that is not damaged; None if the run has no checkpoint.

    Raises:
        NewerFormatError: a newer version of tin-video wrote the checkpoint.
        CheckpointError: the run has checkpoints, but all of them are damaged.
    """
    damaged = []
    for path in newest_first(run):
        try:
            return load(path)
        except NewerFormatError:
            raise
        except CheckpointError as error:
            damaged.append(path)
            log.warning("%s; trying the checkpoint before it", error)
    if damaged:
        raise CheckpointError(
            f"{run.checkpoints}: no checkpoint can be read. To train from the beginning, remove"
            f" {', '.join(path.name for path in damaged)}."
        )
    return None


def load(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint of this project, on the CPU.

    Every byte is compared with its CRC, and every tensor must be finite.

    Raises:
        NewerFormatError: a newer version of tin-video wrote the checkpoint.
        CheckpointError: the file is damaged or is not a checkpoint of this project.
    """
    try:
        state = read_tensors(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: this checkpoint does not exist") from None
    except TensorFileError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    if not isinstance(state, dict) or "format" not in state or "model" not in state:
        raise CheckpointError(
            f"{path}: is not a checkpoint of this project; import weights of other projects with"
            " `tin weights import`"
        )
    if isinstance(state["format"], int) and state["format"] > FORMAT:
        raise NewerFormatError(
            f"{path}: format {state['format']} is newer than {FORMAT}, the newest that this"
            " version reads; update tin-video"
        )
    for key, value in state.items():
        if key in CONTENT and not CONTENT[key](value):
            raise CheckpointError(f"{path}: damaged: found an unexpected value of {key!r}")
    name = first_not_finite(state)
    if name:
        raise CheckpointError(f"{path}: damaged: tensor {name} has NaN or infinite values")
    return state


def damage(path: Path) -> str:
    """Return what is wrong with the bytes of a checkpoint; empty if nothing is."""
    if not path.exists():
        return f"{path}: this checkpoint does not exist"
    try:
        check_members(path)
    except TensorFileError as error:
        return f"{path}: is damaged ({error})"
    return ""


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_weights(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )


def _is_early_stop(value: Any) -> bool:
    """Return whether a value is the best result, at first minus infinity, and its epoch."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    best, epoch = value
    return isinstance(best, float) and not math.isnan(best) and _is_count(epoch)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_sums(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(number, float) and math.isfinite(number) for number in value
    )


CONTENT: dict[str, Callable[[Any], bool]] = {
    "format": _is_count,
    "config": lambda value: isinstance(value, dict),
    "dataset_digest": lambda value: isinstance(value, str),
    "classes": _is_texts,
    "attempt": _is_count,
    "world_size": _is_count,
    "batch": _is_count,
    "keyed_dropout": lambda value: isinstance(value, bool),
    "epoch": _is_count,
    "step": _is_count,
    "global_step": _is_count,
    "model": _is_weights,
    "optimizer": lambda value: isinstance(value, dict),
    "ema": lambda value: value is None or _is_weights(value),
    "sums": _is_sums,
    "best": lambda value: isinstance(value, float) and not math.isnan(value),
    "best_loss": lambda value: isinstance(value, float) and not math.isnan(value),
    "early_stop": _is_early_stop,
    "skipped": _is_count,
    "bad_frames": _is_count,
}
"""What each entry of a checkpoint must be, if the checkpoint has it."""


def _advice(run: Run) -> str:
    """Return what a user can still do if the next checkpoint cannot be written."""
    last = newest(run)
    if last is None:
        return ""
    return f"Earlier checkpoints are intact: `tin train --run {run.path}` resumes from {last.name}."


def _remove_leftovers(run: Run) -> None:
    """Remove the temporary files of earlier attempts that were killed while they wrote."""
    run.remove_older_leftovers(run.checkpoints)
    # Earlier versions named a temporary file .<name>.pt.<attempt>.
    for file in run.checkpoints.glob(".*.pt.*"):
        attempt = file.suffix[1:]
        if attempt.isdecimal() and int(attempt) < run.attempt:
            file.unlink(missing_ok=True)

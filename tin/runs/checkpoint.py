"""Checkpoints: written whole or not at all, the newest found, everything checked on the way in."""

import logging
import os
import re
from pathlib import Path
from typing import Any

import torch

from configs.errors import TinError
from configs.files import sync_folder
from tin.runs.folder import Run

log = logging.getLogger(__name__)
FORMAT = 1
KEPT = 2  # the last ones; best.pt comes on top
NAME = re.compile(r"step-(\d{8})-a(\d{2,})\.pt")


class CheckpointError(TinError, ValueError):
    """A checkpoint that cannot be used here; says which and why."""

    is_final = True


def save(run: Run, state: dict[str, Any], name: str | None = None) -> Path:
    """Write `state` as step-<step>-a<attempt>.pt, or under `name`, and drop older ones.

    Raises:
        FencedError: a newer attempt works on the run.
        OSError: the disk is full, or not writable; the older checkpoints still stand.
    """
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    path = run.checkpoints / (name or f"step-{state['global_step']:08d}-a{run.attempt:02d}.pt")
    aside = path.with_name(f".{path.name}.{run.attempt}")
    try:
        with aside.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        aside.unlink(missing_ok=True)
        raise OSError(
            f"{path} was not written ({error}); the checkpoints before it still stand: make"
            " room, then continue the run"
        ) from error
    run.check()
    aside.replace(path)
    sync_folder(run.checkpoints)
    for old in (*_steps(run)[KEPT:], *_leftovers(run)):
        old.unlink(missing_ok=True)
    return path


def newest(run: Run) -> Path | None:
    """Return the checkpoint of the highest step, of its newest attempt; None if there is none."""
    return next(iter(_steps(run)), None)


def best(run: Run) -> Path | None:
    """Return the checkpoint with the best measured metric; None if there is none."""
    path = run.checkpoints / "best.pt"
    return path if path.exists() else None


def load_newest(run: Run) -> dict[str, Any] | None:
    """Return the newest checkpoint that can be read whole; None if there is none."""
    damaged = []
    for path in _steps(run):
        try:
            return load(path)
        except CheckpointError as error:
            if "newer than" in str(error):
                raise
            damaged.append(path)
            log.warning("%s; trying the one before it", error)
    if damaged:
        raise CheckpointError(
            f"{run.checkpoints}: no checkpoint can be read; remove {damaged[0].name} and the"
            " others to start again from the beginning"
        )
    return None


def load(path: Path) -> dict[str, Any]:
    """Return a checkpoint of ours, on the CPU.

    Raises:
        CheckpointError: not readable, not ours, or of a newer format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except Exception as error:  # torch.load raises many kinds for a damaged file
        reason = f"{type(error).__name__}: {error}".split(". ")[0]
        raise CheckpointError(f"{path}: cannot be read ({reason})") from None
    if not isinstance(state, dict) or "format" not in state or "model" not in state:
        raise CheckpointError(
            f"{path}: no checkpoint of this project; foreign weights come in with"
            " `tin weights import`"
        )
    if state["format"] > FORMAT:
        raise CheckpointError(
            f"{path}: format {state['format']} is newer than {FORMAT}, the newest that this"
            " version reads; update tin-video"
        )
    return state


def _leftovers(run: Run) -> list[Path]:
    """Return what attempts before this one were writing when they were killed."""
    files = [file for file in run.checkpoints.glob(".*.pt.*") if file.suffix[1:].isdigit()]
    return [file for file in files if int(file.suffix[1:]) < run.attempt]


def _steps(run: Run) -> list[Path]:
    found = [(NAME.fullmatch(file.name), file) for file in run.checkpoints.glob("step-*.pt")]
    order = {file: (int(name[1]), int(name[2])) for name, file in found if name}
    return sorted(order, key=order.get, reverse=True)

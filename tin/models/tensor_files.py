"""Writes files of tensors atomically: a failed write keeps the old file and names the reason."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from configs.files import WriteError, atomic_file


def write_tensors(
    path: Path,
    content: Mapping[str, Any],
    *,
    check: Callable[[], None] | None = None,
    advice: str = "",
) -> None:
    """Write `content` with ``torch.save`` so that `path` holds all of it or stays as it was.

    Args:
        path: the file to write; its folder must exist.
        content: tensors, numbers, text, and lists and dicts of these.
        check: called just before the rename; see `configs.files.atomic_file`.
        advice: a sentence for the error message that says what is still intact or what to run.

    Raises:
        WriteError: the disk is full or not writable; names the file, the reason and what to do.
    """
    try:
        with atomic_file(path, check=check, advice=advice) as file:
            torch.save(content, file)
    except RuntimeError as error:
        # When a write fails, torch still tries to close its archive. That fails as well, with a
        # RuntimeError about positions in the archive, which hides why the write failed.
        raise _reason(error) or WriteError(f"cannot write {path}: {error}. {advice}") from error


def _reason(error: BaseException) -> WriteError | None:
    """Return the failed write that led to `error`; None if there was none."""
    earlier = error.__context__
    while earlier is not None and not isinstance(earlier, WriteError):
        earlier = earlier.__context__
    return earlier

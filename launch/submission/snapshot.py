"""A copy of the code for a job to run, so that later edits do not affect submitted jobs."""

import fnmatch
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

from configs.files import atomic_folder
from tin.runs.commit import commit, patch

PACKAGES = ("configs", "preprocess", "pipeline", "tin", "launch")
SOURCES = "cuda"
"""Folder of the operator's sources, which `tin.op.build` reads beside the package `tin`."""
LEFT_OUT = ("__pycache__", "*.pyc", "*.so", "*~", "#*#", ".*")
"""Names that are not copied: compiled files, leftovers of editors, hidden files and folders."""


def snapshot(folder: Path) -> str:
    """Copy the code that runs now into `folder`; return its commit.

    Every file of the packages is copied, except those in `LEFT_OUT`. The file `COMMIT` holds the
    commit, with `-dirty` if tracked files differ from it, and the file `PATCH` these differences.
    Both files are absent where the commit is not known, see `tin.runs.commit`.
    """
    with atomic_folder(folder) as copy:
        for name in PACKAGES:
            home = _home(name)
            _copy(home.rglob("*"), home, copy / name)
        # An installed folder `cuda` may also hold NVIDIA's Python packages, which stay out.
        sources = _home("tin").with_name(SOURCES)
        _copy((file for file in sources.iterdir() if file.suffix != ".py"), sources, copy / SOURCES)
        known = commit()
        if known:
            (copy / "COMMIT").write_text(known)
            (copy / "PATCH").write_bytes(patch())
    return known


def _home(package: str) -> Path:
    """Return the folder that a package lies in; an editable install may use several places."""
    spec = importlib.util.find_spec(package)
    assert spec
    assert spec.origin
    return Path(spec.origin).resolve().parent


def _copy(files: Iterator[Path], home: Path, target: Path) -> None:
    for file in files:
        parts = file.relative_to(home).parts
        left_out = any(fnmatch.fnmatch(part, pattern) for part in parts for pattern in LEFT_OUT)
        if file.is_file() and not left_out:
            copy = target.joinpath(*parts)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)

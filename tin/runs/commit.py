"""The commit of the code that runs, as far as git knows it."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds this package: the root of the checkout, unless the package is installed."""


def commit() -> str:
    """Return the commit of this code, with `-dirty` if tracked files differ from it.

    The commit is empty if git does not track this code: an installed package, or a copy in an
    ignored folder of another repository, whose commits say nothing about this code.
    """
    return _git("describe", "--always", "--dirty", "--abbrev=12").decode().strip()


def patch() -> bytes:
    """Return the changes of tracked files since `commit()`; empty if there are none."""
    return _git("diff", "HEAD")


def _git(*words: str) -> bytes:
    """Return what git prints about the repository that tracks this file; empty if none does."""
    command = ["git", "-C", str(ROOT)]
    this_file = Path(__file__).resolve().relative_to(ROOT)
    try:
        # A repository above this folder answers too, so ask whether it tracks this very file.
        subprocess.run(
            [*command, "ls-files", "--error-unmatch", str(this_file)],
            capture_output=True,
            check=True,
        )
        done = subprocess.run([*command, *words], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return b""
    return done.stdout

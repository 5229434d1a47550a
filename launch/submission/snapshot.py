"""A copy of the code that a job runs, so that edits after `tin submit` do not reach it."""

import shutil
import subprocess
from pathlib import Path

PACKAGES = ("configs", "cuda", "preprocess", "pipeline", "tin", "launch")
KINDS = {".py", ".yaml", ".h", ".cu", ".cpp", ".j2"}
HOME = Path(__file__).resolve().parents[2]  # not by import: NVIDIA's cuda may come first


def snapshot(folder: Path) -> str:
    """Copy the packages as they run now into `folder`; return the commit that they come from.

    `COMMIT` holds the commit, with `-dirty` where files differ from it, and `PATCH` what differs.
    Both are absent where the code was not installed from a git checkout.
    """
    aside = folder.with_name(f".{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    for name in PACKAGES:
        for file in (HOME / name).rglob("*"):
            if file.suffix in KINDS:
                target = aside / file.relative_to(HOME)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
    commit = _git("describe", "--always", "--dirty", "--abbrev=12")
    if commit:
        (aside / "COMMIT").write_text(commit)
        (aside / "PATCH").write_text(_git("diff", "HEAD"))
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return commit


def _git(*words: str) -> str:
    """Return what git says of the folder of this code; empty if it is no checkout of it."""
    command = ["git", "-C", str(HOME)]
    try:
        top = subprocess.run(
            [*command, "ls-files", "launch/submission/snapshot.py"],
            capture_output=True,
            text=True,
            check=True,
        )
        if not top.stdout:
            return ""
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip() if words[0] == "describe" else done.stdout

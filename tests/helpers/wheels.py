"""Builds the wheel of the project, and installs it into a folder."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def pip(*words: object) -> None:
    """Run pip, and raise an error if it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*command, *map(str, words)], check=True, capture_output=True, text=True)


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of all files that git does not ignore; return its path."""
    source = folder / "source"
    out = folder / "wheel"
    command = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip("wheel", source, "--no-deps", "--no-build-isolation", "--wheel-dir", out)
    return next(out.glob("tin_video-*.whl"))

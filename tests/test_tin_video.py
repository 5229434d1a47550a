"""Files of a user that have the names of our packages: it works, or the message says what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENTRY = "import sys; from tin_video import main; sys.argv = ['tin', '--version']; main()"
"""What the script `tin` does."""
HIDING = {
    "launch": "launch.py",
    "configs": "configs/__init__.py",
    "pipeline": "pipeline/__init__.py",
    "tin": "tin.py",
}


def write(folder: Path, name: str) -> Path:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("raise SystemExit('a file of the user was imported')\n")
    return file


def start(folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Start `tin --version` in a folder; its script does not add the current folder."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT]))}
    command = [sys.executable, "-P", "-c", ENTRY]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("package", HIDING)
def test_a_file_on_pythonpath_that_hides_a_package_is_named(package: str, tmp_path: Path):
    file = write(tmp_path, HIDING[package])
    done = start(tmp_path, tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"{file} hides the package {package} of tin-video, which is {ROOT / package}" in (
        done.stderr
    )
    assert f"remove {tmp_path} from PYTHONPATH" in done.stderr


@pytest.mark.parametrize("package", HIDING)
def test_a_file_in_the_current_folder_hides_nothing(package: str, tmp_path: Path):
    write(tmp_path, HIDING[package])
    done = start(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["pipeline/own.txt", "configs/own.yaml", "cuda/__init__.py"])
def test_a_folder_that_is_not_a_package_or_is_called_cuda_hides_nothing(name: str, tmp_path: Path):
    write(tmp_path, name)
    done = start(tmp_path, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")

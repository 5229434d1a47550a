"""The commands of the pages, word for word, with an installed wheel and real videos of three forms.

The commands are read from README.md and docs/own-videos.md. They run in an empty folder, which is
also the home folder, where `videos` has the clips. Only settings that keep them short are added.
"""

import csv
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from wheels import ROOT, build_wheel, pip

SHORT = (
    "train.epochs=1 clip.num_segments=2 clip.crop=32 clip.resize=40 optim.warmup_epochs=0"
    " run.tensorboard=false run.check_node=false run.device=cpu"
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Install the wheel into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", build_wheel(folder), "--no-deps", "--no-index", "--target", folder / "site")
    return folder / "site"


def lines_of(page: str, start: str) -> list[str]:
    """Return the indented lines of a page that start with a command."""
    text = (ROOT / page).read_text()
    found = re.findall(rf"^    ({re.escape(start)}.*)$", text, re.MULTILINE)
    assert found, f"{page} has no line that starts with {start}"
    return found


def run(command: str, home: Path, installed: Path) -> str:
    """Run a line of a page in the home folder; return what it prints."""
    path = f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "HOME": str(home), "PYTHONPATH": str(installed), "PATH": path}
    env.pop("TIN_SITE", None)
    done = subprocess.run(
        ["bash", "-c", command], cwd=home, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def follow_own_videos(home: Path, installed: Path) -> None:
    """Type the line of README that makes a dataset with labels, then section 3 of the page."""
    (make,) = lines_of("README.md", "tin shard ~/videos ~/shards/mine --labels")
    assert "next: tin train clips" in run(make, home, installed)
    (verify,) = lines_of("README.md", "tin data verify")
    run(verify, home, installed)
    (train,) = lines_of("docs/own-videos.md", "tin train clips")
    (test,) = lines_of("docs/own-videos.md", "tin test")
    (report,) = lines_of("docs/own-videos.md", "tin report runs --out")
    run(f"{train} {SHORT}", home, installed)
    run(test, home, installed)
    run(report, home, installed)
    assert "runs/first" in (home / "report" / "results.html").read_text()


def test_a_folder_per_class_with_one_command(shared, tmp_path, installed):
    (tmp_path / "videos").symlink_to(shared / "videos" / "ucf101")
    (command,) = lines_of("README.md", "tin submit shard,train,test,report clips")
    assert [command] == lines_of("docs/own-videos.md", "tin submit shard,train,test,report clips")
    run(f"{command} {SHORT}", tmp_path, installed)
    page = tmp_path / "runs/first/report/results.html"
    deadline = time.monotonic() + 240
    while not page.exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert page.exists(), run("tin status runs; tin logs runs/first", tmp_path, installed)
    assert "runs/first" in page.read_text()


def test_the_labels_file_that_lies_beside_the_videos(shared, tmp_path, installed):
    (tmp_path / "videos").symlink_to(shared / "videos")
    (tmp_path / "labels.csv").symlink_to(shared / "videos" / "labels.csv")
    follow_own_videos(tmp_path, installed)


def test_a_file_with_semicolons_and_without_splits(shared, tmp_path, installed):
    (tmp_path / "videos").symlink_to(shared / "videos")
    with (shared / "videos" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = ["file;label", *(f"{row['file']};{row['label']}" for row in rows)]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    follow_own_videos(tmp_path, installed)

"""The copy of the code that jobs run: complete, importable, and with the commit that it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.submission.snapshot import snapshot

ROOT = Path(__file__).parents[3]
LEFTOVERS = (
    "tin/__pycache__/model.cpython-311.pyc",
    "tin/old.pyc",
    "tin/op/interlace.so",
    "tin/runs/folder.py~",
    "tin/runs/.folder.py.swp",
    "tin/runs/#folder.py#",
    "tin/.idea/workspace.xml",
)


def python(code: str, home: Path) -> str:
    """Run Python code with the packages in `home`; return what it prints."""
    env = {**os.environ, "PYTHONPATH": str(home), "PYTHONSAFEPATH": "1"}
    env.pop("TIN_COMMIT", None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def recorded(home: Path, target: Path) -> list[str]:
    """Return the commits that a snapshot and a run of the code in `home` record."""
    code = (
        "import json; from pathlib import Path;"
        " from launch.submission.snapshot import snapshot;"
        " from tin.runs.folder import describe_environment;"
        f" commits = [snapshot(Path({str(target)!r})), describe_environment('cpu', 1)['commit']];"
        " print(json.dumps(commits))"
    )
    return json.loads(python(code, home))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the packages, to be changed by a test."""
    snapshot(tmp_path / "checkout" / "code")
    for name in ("COMMIT", "PATCH"):
        (tmp_path / "checkout" / "code" / name).unlink(missing_ok=True)
    return tmp_path / "checkout" / "code"


@pytest.fixture(autouse=True)
def _parent(tmp_path: Path) -> None:
    (tmp_path / "checkout").mkdir()


def test_the_packages_are_copied_from_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    nvidia = tmp_path / "other" / "cuda" / "__init__.py"  # as an older cuda-python installs it
    nvidia.parent.mkdir(parents=True)
    nvidia.touch()
    monkeypatch.syspath_prepend(tmp_path / "other")
    monkeypatch.delitem(sys.modules, "cuda", raising=False)
    commit = snapshot(tmp_path / "code")
    for name in (
        "launch/jobs/job.py",
        "tin/training/trainer.py",
        "tin/py.typed",
        "cuda/core.h",
        "configs/clusters/local.yaml",
    ):
        assert (tmp_path / "code" / name).read_bytes() == (ROOT / name).read_bytes()
    assert not list((tmp_path / "code").rglob("*.pyc"))
    assert (tmp_path / "code" / "COMMIT").exists() == bool(commit)
    found = python(
        "import launch.jobs.job, tin; print(launch.jobs.job.__file__)", tmp_path / "code"
    )
    assert found == str(tmp_path / "code" / "launch" / "jobs" / "job.py")


def test_files_of_any_kind_are_copied_but_leftovers_are_not(copy: Path, tmp_path: Path):
    kept = ("tin/reports/page.html.jinja", "configs/words.json", "preprocess/LICENSE")
    for name in (*kept, *LEFTOVERS):
        path = copy / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    (copy / "cuda" / "bindings").mkdir()
    (copy / "cuda" / "bindings" / "driver.py").touch()  # NVIDIA's, installed into one folder
    (copy / "cuda" / "__init__.py").touch()
    recorded(copy, tmp_path / "again")
    found = {
        path.relative_to(tmp_path / "again").as_posix(): path
        for path in tmp_path.rglob("again/**/*")
    }
    for name in kept:
        assert found[name].read_text() == name
    assert not found.keys() & {*LEFTOVERS, "cuda/__init__.py", "cuda/bindings/driver.py"}


def test_packages_of_an_editable_install_may_lie_in_several_places(copy: Path, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (copy / "configs").rename(elsewhere / "configs")
    (elsewhere / "configs" / "words.json").write_text("{}")
    code = (
        f"import sys; sys.path.append({str(elsewhere)!r}); from pathlib import Path;"
        " from launch.submission.snapshot import snapshot;"
        f" snapshot(Path({str(tmp_path / 'again')!r}))"
    )
    python(code, copy)
    assert (tmp_path / "again" / "configs" / "words.json").exists()
    assert (tmp_path / "again" / "launch" / "cli.py").exists()


def test_a_checkout_records_its_commit_and_its_changes(copy: Path, tmp_path: Path):
    git(copy, "init")
    git(copy, "add", ".")
    git(copy, "commit", "-m", "first")
    head = git(copy, "rev-parse", "--short=12", "HEAD")
    assert recorded(copy, tmp_path / "clean") == [head, head]
    assert (tmp_path / "clean" / "COMMIT").read_text() == head
    assert (tmp_path / "clean" / "PATCH").read_text() == ""

    (copy / "configs" / "clusters" / "debug.yaml").write_bytes(b"# Caf\xe9\r\n")  # not UTF-8
    assert recorded(copy, tmp_path / "dirty") == [f"{head}-dirty"] * 2
    assert (tmp_path / "dirty" / "COMMIT").read_text() == f"{head}-dirty"
    assert b"\n+# Caf\xe9\r\n" in (tmp_path / "dirty" / "PATCH").read_bytes()


def test_a_foreign_repository_around_an_ignored_copy_is_not_recorded(copy: Path, tmp_path: Path):
    foreign = copy.parent
    git(foreign, "init")
    (foreign / ".gitignore").write_text("code/\n")
    git(foreign, "add", ".gitignore")
    git(foreign, "commit", "-m", "foreign")
    assert recorded(copy, tmp_path / "again") == ["", ""]
    assert not (tmp_path / "again" / "COMMIT").exists()
    assert not (tmp_path / "again" / "PATCH").exists()

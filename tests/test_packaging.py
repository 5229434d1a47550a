"""The wheel is complete, and an installed package works from any folder."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from wheel import ROOT, build, pip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Return the wheel of this checkout."""
    return build(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_contains_sources_recipes_and_licenses(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, pattern in (("cuda", "*.*"), ("configs", "*/*.yaml"), ("tin", "*/*.py")):
        files = [path.relative_to(ROOT) for path in (ROOT / folder).glob(pattern)]
        assert files
        assert {str(path) for path in files} <= names
    assert "cuda/__init__.py" not in names
    assert {"LICENSE", "NOTICE"} <= {name.split("/")[-1] for name in names}
    assert not any(name.startswith("tests/") for name in names)


def test_a_normal_install_works_from_any_folder(wheel, tmp_path):
    target = tmp_path / "site"
    elsewhere = tmp_path / "elsewhere"
    pip("install", wheel, "--no-deps", "--no-index", "--target", target)
    elsewhere.mkdir()
    where = "import configs, cuda; print(configs.__file__); print(list(cuda.__path__))"
    env = {**os.environ, "PYTHONPATH": str(target)}
    for words in (["-c", where], ["-m", "launch", "config", "tin_r50_8f_sthv1"]):
        done = subprocess.run(
            [sys.executable, *words], cwd=elsewhere, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        if words[0] == "-c":
            assert str(target / "configs") in done.stdout
            assert str(target / "cuda") in done.stdout
        else:
            assert "recipe: tin_r50_8f_sthv1" in done.stdout


def test_an_installed_command_names_a_file_that_hides_a_package(wheel, tmp_path):
    target = tmp_path / "site"
    pip("install", wheel, "--no-deps", "--no-index", "--target", target)
    (tmp_path / "launch.py").touch()
    for paths, code in (([target], 0), ([tmp_path, target], 2)):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
        command = [target / "bin" / "tin", "--version"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert ("hides the package launch" in done.stderr) == bool(code)


def test_an_editable_install_finds_its_sources_from_any_folder(tmp_path):
    code = "import cuda, pathlib; print([str(p) for p in map(pathlib.Path, cuda.__path__)])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert str(ROOT / "cuda") in done.stdout


def test_the_wheel_renders_a_report(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    code = (
        "import pathlib, tin\n"
        "from tin.reports.results import load_runs, write_report\n"
        "print(tin.__path__[0])\n"
        "write_report(load_runs(['nowhere']), pathlib.Path('out'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "site" / "tin")
    page = (tmp_path / "out" / "results.html").read_text()
    assert re.search(r">nowhere<.*>missing<.*>no run here<", page, re.DOTALL)

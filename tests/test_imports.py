"""The house's rules that no linter knows: which way imports point, and who imports what."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = ["configs", "preprocess", "pipeline", "tin", "launch"]
MODULES = [path for package in ORDER for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    """Yield the full names of all modules that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    allowed = ORDER[: ORDER.index(package) + 1]
    used = {name.split(".")[0] for name in imports(path)}
    assert not (used & set(ORDER)) - set(allowed)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dali_and_submitit_stay_in_their_places(path):
    place = str(path.relative_to(ROOT))
    used = {name.split(".")[0] for name in imports(path)}
    assert "nvidia" not in used or place in ("pipeline/graph.py", "pipeline/loader.py")
    assert "submitit" not in used or place.startswith("launch/")
    if place.startswith(("preprocess/", "configs/")):
        assert "torch" not in used


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_short(path):
    assert len(path.read_text().splitlines()) < 300


def test_cuda_folder_is_no_package():
    assert not list((ROOT / "cuda").rglob("__init__.py"))

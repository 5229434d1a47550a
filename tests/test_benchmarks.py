"""Each benchmark tests/bench_*.py starts as its first lines say: `python -m tests.bench_...`.

As a file, `python tests/bench_....py`, Python would look for packages in the folder tests first,
whose folders have the names of the packages that they test.
"""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
BENCHMARKS = sorted(path.stem for path in TESTS.glob("bench_*.py"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_names_its_command_and_finds_its_imports(name):
    assert f"    python -m tests.{name}" in (TESTS / f"{name}.py").read_text()
    subprocess.run(
        [sys.executable, "-c", f"import tests.{name}"], cwd=TESTS.parent, check=True, timeout=120
    )

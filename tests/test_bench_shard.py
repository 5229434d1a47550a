"""The benchmark of sharding finds its imports when it runs as a script."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent / "bench_shard.py"


def test_the_script_starts_from_any_folder(tmp_path):
    """Without arguments it reports the missing one, which comes after all imports."""
    done = subprocess.run(
        [sys.executable, SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "arguments are required: VIDEOS" in done.stderr

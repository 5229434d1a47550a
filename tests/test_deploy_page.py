"""The commands and the example of docs/deploy.md run as they are printed."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_videos import write_clip
from untrained_run import write_run

from configs.load import load
from preprocess.convert import shard
from preprocess.motions import make_motions

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder that the page describes."""
    folder = tmp_path_factory.mktemp("page")
    make_motions(folder / "videos", train=4, val=4, size=64, seed=0)
    labels = folder / "videos" / "labels.csv"
    source = [f"shard.source={folder / 'videos'}", f"shard.labels={labels}"]
    shard(load(None, [*source, "run.threads=1"]), folder / "shards")
    (folder / "runs").mkdir()
    write_run(folder / "runs" / "first", folder / "shards")
    live = ("model.causal=true", "clip.sampling=dense", "clip.stride=2")
    write_run(folder / "runs" / "live", folder / "shards", *live)
    noise = np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), np.uint8)
    write_clip(folder / "long.mp4", list(noise))
    (folder / "frames.rgb").write_bytes(noise[:6].tobytes())
    (folder / "frames").mkdir()
    for number in range(4):
        Image.fromarray(noise[number]).save(folder / "frames" / f"{number}.png")
    return folder


def test_the_commands_and_the_example_run(folder: Path):
    commands = blocks("sh")
    assert sum(block.count("tin ") for block in commands) == 8
    script = f'set -euo pipefail\ntin() {{ "{sys.executable}" -m launch "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-c", script + "".join(commands)], cwd=folder, capture_output=True, text=True,
        timeout=400, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("predictions.csv", "scores.npy", "features.npy", "keys.csv", "bad.csv"):
        assert (folder / "out" / "shards" / name).exists()
    assert (folder / "out" / "timeline" / "00000-long.png").exists()
    for name in ("model.onnx", "model.pt2", "model.safetensors", "model.md"):
        assert (folder / name).exists()
    assert "frame 0: " in done.stdout
    assert '{"frame": 4, "seconds": null' in done.stdout

    (example,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, env={}
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^ *\d+\.\d % [\w-]+$", done.stdout, re.MULTILINE)) == 3
    assert "tin" not in re.findall(r"import (\w+)", example)

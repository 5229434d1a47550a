"""The code of docs/python.md runs as it is printed, apart from its dataset and recipe."""

import re
from pathlib import Path

import pandas as pd
import pytest
import synthetic_dataset

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"
RECIPE = """\
data: {dataset: %s, test_split: train}
clip: {num_segments: 2, crop: 16, resize: 24}
model: {arch: resnet18, init: none}
optim: {lr_batch: 4, warmup_epochs: 0}
train: {epochs: 1, batch: 4}
run: {device: cpu, threads: 1, readers: 1, log_steps: 1, tensorboard: false}
"""


def test_submitting_waiting_and_reading_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (code,) = re.findall(r"```python\n(from launch.submission.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    synthetic_dataset.write_dataset(tmp_path / "shards" / "demo", [3] * 8)
    Path("small.yaml").write_text(RECIPE % (tmp_path / "shards" / "demo"))
    names: dict[str, object] = {}
    exec(code.replace('"demo"', '"small.yaml"'), names)
    table = names["table"]
    assert isinstance(table, pd.DataFrame)
    runs = [Path(run_dir).name for run_dir in table["run"]]
    assert sorted(runs) == ["optim.lr-0.01", "optim.lr-0.02"]
    assert table["top1"].between(0, 1).all()
    assert capsys.readouterr().out.count("done") == 2

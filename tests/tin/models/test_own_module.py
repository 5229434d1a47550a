"""The module that docs/temporal.md shows works as the page says."""

import re
import sys
from pathlib import Path

import pytest
import torch

from configs.load import load
from configs.schema import Config
from tin.models.network import build_model
from tin.models.tensor_names import to_reference
from tin.models.weights import import_file
from tin.training.optim import build_optimizer, loss

PAGE = Path(__file__).parents[3] / "docs" / "temporal.md"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return settings that name the module of the page, which is put on the path."""
    (code,) = re.findall(r"```python\n(.+?)```", PAGE.read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 30
    (tmp_path / "motion.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "motion", raising=False)
    return load(
        None,
        ["model.temporal=motion:Motion", "model.arch=resnet18", "clip.num_segments=4",
         "model.dropout=0.0", "train.bn=frozen"],
    )  # fmt: skip


def test_the_module_of_the_page_starts_as_a_network_of_separate_frames(config: Config):
    model = build_model(config, 2).eval()
    clip = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), model(clip.flip(1)), rtol=1e-4, atol=1e-6)


def test_after_a_training_step_it_distinguishes_a_clip_from_its_reverse(config: Config):
    model = build_model(config, 2).double()  # in float64, a small step is not lost in rounding
    torch.nn.init.normal_(model.fc.weight, std=0.05)
    optimizer = build_optimizer(model, config)
    clip = torch.rand(1, 1, 3, 32, 32) * torch.arange(1.0, 5.0)[None, :, None, None, None]
    x = torch.cat([clip, clip.flip(1)]).double()
    targets = torch.tensor([0, 1])
    logits = model(x)
    torch.testing.assert_close(logits[0], logits[1])
    loss(logits, targets, config).backward()
    optimizer.step()
    logits = model(x).detach()
    assert (logits[0] - logits[1]).abs().max() > 1e-6


def test_weights_of_other_networks_load_around_the_module_of_the_page(
    config: Config, tmp_path: Path
):
    plain = build_model(load(None, ["model.temporal=none", "model.arch=resnet18"]), 2)
    torch.save(to_reference(plain), tmp_path / "tsn.pth")
    report = import_file(tmp_path / "tsn.pth", build_model(config, 2))
    assert report.failed == ()
    new = [row.ours for row in report.rows if row.status == "new"]
    assert new[0] == "backbone.layer1.0.temporal.gain"
    assert len(new) == 8

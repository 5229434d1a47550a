"""Statistics of BatchNorm and averages of checkpoints before a test."""

import numpy as np
import pytest
import torch
from synthetic_dataset import CLASSES, write_dataset

from configs.load import ConfigError, dump, load
from pipeline.loader import ClipLoader
from tin.evaluation.evaluate import test as measure
from tin.evaluation.precise_bn import recompute_statistics
from tin.evaluation.scores import load as load_scores
from tin.evaluation.scores import load_result
from tin.models.clip_input import normalized
from tin.models.network import build_model
from tin.ranks.distributed import start
from tin.runs import checkpoint
from tin.runs.averaging import load_average
from tin.runs.folder import Run

SETTINGS = (
    "model.arch=resnet18", "model.init=none", "clip.num_segments=2", "clip.crop=32",
    "clip.resize=40", "train.batch=2", "test.batch=2", "data.test_split=train", "run.threads=1",
    "run.device=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny", [6] * 6, sizes=((48, 40),))


def train_loader(dataset, config):
    return ClipLoader(dataset, "train", config, training=True)


def run_with_checkpoints(folder, dataset, values, *settings):
    """Write a run whose checkpoints have all weights of the classifier's bias at one value each."""
    config = load(None, [*SETTINGS, f"data.dataset={dataset}", *settings])
    torch.manual_seed(0)
    model = build_model(config, len(CLASSES))
    run = Run(folder)
    for step, value in enumerate(values):
        torch.nn.init.constant_(model.fc.bias, value)
        state = {
            "config": config.model_dump(mode="json"), "classes": list(CLASSES), "epoch": step,
            "step": 0, "global_step": step, "model": model.state_dict(), "ema": None,
        }  # fmt: skip
        checkpoint.save(run, state, kept=3)
    checkpoint.save(run, state, "best.pt", kept=3)
    (folder / "config.yaml").write_text(dump(config))
    return folder


def test_statistics_are_the_means_over_training_batches(dataset):
    config = load(None, SETTINGS)
    model = build_model(config, 3)
    loader = train_loader(dataset, config)
    with start("cpu") as world:
        recompute_statistics(model, loader, 3, world, "float32")
    means = []
    variances = []
    batches = loader.epoch(0)
    for _ in range(3):
        x = normalized(next(batches).x).flatten(0, 1)
        with torch.no_grad():
            y = model.backbone.conv1(x).transpose(0, 1).flatten(1)
        means.append(y.mean(1))
        variances.append(y.var(1))
    loader.close()
    norm = model.backbone.bn1
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0))
    assert not any(module.training for module in model.modules())
    assert norm.momentum == 0.1


def test_more_batches_than_an_epoch_has_are_rejected(dataset):
    config = load(None, SETTINGS)
    loader = train_loader(dataset, config)
    with start("cpu") as world, pytest.raises(ConfigError, match="more than the 3 batches"):
        recompute_statistics(build_model(config, 3), loader, 4, world, "float32")
    loader.close()


def test_a_test_uses_precise_statistics_and_its_result_says_so(dataset, tmp_path):
    folder = run_with_checkpoints(tmp_path / "run", dataset, [0.0])
    with start("cpu") as world:
        kept = load_scores(measure(folder, [], world))
        out = measure(folder, ["test.precise_bn=3"], world)
        again = load_scores(measure(folder, ["test.precise_bn=3"], world))
    assert load_result(out)["precise_bn"] == 3
    assert not np.allclose(load_scores(out).scores, kept.scores, atol=1e-6)
    np.testing.assert_array_equal(load_scores(out).scores, again.scores)


def test_the_last_checkpoints_are_averaged(dataset, tmp_path):
    folder = run_with_checkpoints(tmp_path / "run", dataset, [0.0, 3.0, 4.0, 8.0])
    paths, state = load_average(Run(folder), 3)
    assert [path.name[:13] for path in paths] == ["step-00000003", "step-00000002", "step-00000001"]
    torch.testing.assert_close(state["model"]["fc.bias"], torch.full((3,), 5.0))
    single = checkpoint.load(paths[0])["model"]
    torch.testing.assert_close(state["model"]["fc.weight"], single["fc.weight"])
    with start("cpu") as world:
        settings = ["test.checkpoint=last", "test.last_checkpoints=3"]
        result = load_result(measure(folder, settings, world))
    assert result["averaged_checkpoints"] == [path.name for path in paths]
    with pytest.raises(checkpoint.CheckpointError, match="has 3 checkpoints, but .* is 4"):
        load_average(Run(folder), 4)


def test_moving_averages_are_averaged_where_the_checkpoints_have_them(dataset, tmp_path):
    folder = run_with_checkpoints(tmp_path / "run", dataset, [1.0, 3.0])
    for path in checkpoint.newest_first(Run(folder)):
        state = torch.load(path, weights_only=True)
        state["ema"] = {name: 10 * value for name, value in state["model"].items()}
        torch.save(state, path)
    _, state = load_average(Run(folder), 2)
    torch.testing.assert_close(state["ema"]["fc.bias"], torch.full((3,), 20.0))

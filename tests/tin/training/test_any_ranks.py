"""Training with BatchNorm and dropout is the same at any number of ranks and of passes.

The figures for ResNet-18, whose rounding errors grow from step to step, are in docs/design.md.
"""

from typing import NamedTuple

import pytest
import torch
from any_ranks_runs import losses
from short_runs import ONE_EPOCH, SETTINGS, assert_same_bits, mark_as_incomplete, train_run

from configs.load import ConfigError, load
from pipeline.plan import bn_groups
from preprocess.shards import read_info
from tin.models.network import TIN
from tin.ranks.distributed import World
from tin.runs import checkpoint
from tin.runs.folder import Run
from tin.runs.settings import resolve
from tin.training.any_ranks import dropout_mask
from tin.training.state import TrainingState

NUM_STEPS = 51
STEPS = (
    "small", "train.batch=8", "optim.lr_batch=8", "optim.lr=0.002", "train.epochs=17",
    "train.evaluate_every=17", "run.log_steps=1", "run.check_node=false",
    "run.checkpoint_minutes=0", "train.ema=0.9", "model.dropout=0.5",
)  # fmt: skip
GROUPS = ("train.bn=full", "train.bn_clips=2")
TWO_PASSES = "train.accumulate=2"
SETTINGS_OF_RESUME = (*GROUPS, TWO_PASSES, "train.ema=0.9", "run.check_node=false")


class Trained(NamedTuple):
    """What is compared of two runs."""

    losses: torch.Tensor
    """Loss of each step."""
    values: dict[str, torch.Tensor]
    """Weights and statistics at the end, those of the model and of its moving average."""


def apart(one: Trained, other: Trained) -> float:
    """Return the largest difference of the losses of a step."""
    assert len(one.losses) == len(other.losses) == NUM_STEPS
    return float((one.losses - other.losses).abs().max())


@pytest.fixture(scope="module")
def train(dataset, tmp_path_factory):
    """Return a function that trains with settings on some ranks."""

    def trained(world_size: int, *settings: str) -> Trained:
        run_dir = tmp_path_factory.mktemp("run")
        found = losses(world_size, run_dir, f"data.dataset={dataset}", *STEPS, *settings)
        saved = checkpoint.load(checkpoint.newest(Run(run_dir)))
        models = ((name, saved[name]) for name in ("model", "ema"))
        return Trained(found, {f"{m}.{k}": v for m, model in models for k, v in model.items()})

    return trained


def test_in_float64_losses_and_statistics_at_1_2_and_4_ranks_are_equal_to_1e_9(train):
    one = train(1, "float64", *GROUPS)
    assert any("running_var" in name for name in one.values)
    for world_size, passes in ((4, 1), (2, 1), (2, 2)):
        other = train(world_size, "float64", *GROUPS, f"train.accumulate={passes}")
        assert apart(one, other) < 1e-9, (world_size, passes)
        torch.testing.assert_close(other.values, one.values, rtol=1e-9, atol=1e-9)


def test_with_partial_batchnorm_the_losses_are_equal_too(train):
    settings = ("float64", *GROUPS, "train.bn=partial")
    assert apart(train(1, *settings), train(2, *settings)) < 1e-9


def test_in_float32_the_losses_differ_no_more_than_those_of_another_order_of_sums(train):
    one = train(1, *GROUPS)
    limit = max(1e-5, apart(one, train(1, *GROUPS, "reversed")))
    assert limit < 1e-3
    assert apart(one, train(2, *GROUPS, TWO_PASSES)) <= limit


def test_without_groups_the_losses_differ(train):
    assert apart(train(1, "train.bn=full"), train(2, "train.bn=full")) > 1e-2


def test_statistics_count_steps_and_a_resumed_run_has_the_same_bits(dataset, tmp_path):
    settings = [f"data.dataset={dataset}", *SETTINGS_OF_RESUME]
    whole = tmp_path / "whole"
    train_run(whole, *settings)
    begun = tmp_path / "begun"
    train_run(begun, *settings)
    run = Run(begun)
    # Resume from the checkpoint of the first epoch.
    checkpoint.newest(run).unlink()
    mark_as_incomplete(begun)
    train_run(begun)
    assert_same_bits(whole, begun)
    state = checkpoint.load(checkpoint.newest(run))
    counts = [value for name, value in state["model"].items() if name.endswith("tracked")]
    assert {int(count) for count in counts} == {state["global_step"]}
    assert not any("sum" in name for name in state["model"])


def test_a_run_that_began_without_keyed_masks_ends_without_them(dataset, tmp_path):
    train_run(tmp_path, f"data.dataset={dataset}", *ONE_EPOCH)
    mark_as_incomplete(tmp_path)
    path = checkpoint.newest(Run(tmp_path))
    saved = checkpoint.load(path)
    assert saved.pop("keyed_dropout") is True
    torch.save(saved, path)
    info = read_info(dataset)
    config = resolve(None, tmp_path, [])
    state = TrainingState(config, Run(tmp_path), World(0, 0, 1, torch.device("cpu")), info, 6)
    assert state.keyed_dropout is False


def test_masks_of_a_global_batch_are_the_same_at_any_number_of_ranks_and_passes():
    model = TIN(3, "resnet18", num_segments=4)
    device = torch.device("cpu")

    def masks(world_size, num_passes):
        config = load(None, [*SETTINGS, "train.batch=8", f"train.accumulate={num_passes}"])
        num_clips = 8 // num_passes // world_size
        return torch.cat([
            dropout_mask(model, config, World(rank, rank, world_size, device), num_clips,
                         5 * num_passes + index)
            for index in range(num_passes)
            for rank in range(world_size)
        ])  # fmt: skip

    one = masks(1, 1)
    assert one.shape == (8, 4 * 512)
    assert len(one.unique(dim=0)) == 8
    assert abs(one.double().mean() - 0.7) < 0.02  # model.dropout is 0.3 there
    for world_size, num_passes in ((2, 1), (4, 1), (2, 2), (1, 4)):
        assert torch.equal(masks(world_size, num_passes), one)


def test_a_number_that_does_not_fit_is_rejected_with_those_that_do():
    config = load(None, [*SETTINGS, "train.batch=24", "train.bn_clips=5"])
    with pytest.raises(ConfigError, match="does not divide the 6 clips .* one of 1, 2, 3, 6, or"):
        bn_groups(config, 4)
    with pytest.raises(ConfigError, match=r"train\.bn_clips 2 .* train\.bn sync"):
        load(None, ["train.bn=sync", "train.bn_clips=2"])

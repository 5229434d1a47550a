"""`train.compile: graphs` computes what eager passes compute, on a GPU with CUDA graphs."""

import os
from types import SimpleNamespace

import pytest
import torch
from rank_processes import finish, start_ranks
from short_runs import ONE_EPOCH, SETTINGS, assert_same_bits, train_run
from torch import Tensor, nn

from configs.load import ConfigError, load
from pipeline.batches import Batch
from tin.ranks.distributed import World
from tin.runs.folder import Run
from tin.training.pass_graph import PassGraph
from tin.training.state import TrainingState
from tin.training.step import train_step

GRAPHS = "train.compile=graphs"


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["train.accumulate=2", "train.ema=0.9", "run.offset_steps=2"],
        ["train.nan=skip"],
        ["train.bn_clips=2"],
    ],
    ids=["plain", "accumulate", "skip", "groups"],
)
def test_a_run_with_graphs_has_the_bits_of_one_without(dataset, tmp_path, settings):
    settings = [f"data.dataset={dataset}", *ONE_EPOCH, *settings]
    train_run(tmp_path / "eager", *settings)
    train_run(tmp_path / "graphs", GRAPHS, *settings)
    assert_same_bits(tmp_path / "eager", tmp_path / "graphs")


def test_parameters_that_a_pass_does_not_reach_get_no_gradient():
    # Otherwise weight decay would change them.
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    graph = PassGraph(model, clips=4)

    def work(x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = model["used"](x)
        loss = nn.functional.cross_entropy(logits, targets)
        loss.backward()
        return loss.detach(), logits.detach()

    graph.run(work, torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))
    assert model["unused"].weight.grad is None
    assert model["used"].weight.grad.abs().sum() > 0


def test_preparing_changes_neither_statistics_nor_random_numbers():
    def result(prepared: bool) -> list[Tensor]:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout())
        x = torch.randn(4, 3)

        def work(x: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            y = model(x)
            y.square().mean().backward()
            return y.detach(), y.detach()

        if prepared:
            PassGraph(model, clips=4).run(work, x, x)
        else:
            work(x, x)
        gradients = [parameter.grad for parameter in model.parameters()]
        return [*gradients, *model.buffers(), torch.rand(2)]

    assert all(map(torch.equal, result(prepared=True), result(prepared=False)))


def test_graphs_and_statistics_over_all_ranks_are_rejected():
    with pytest.raises(ConfigError, match="train.bn sync exchanges statistics"):
        load(None, [GRAPHS, "train.bn=sync"])


def test_two_ranks_sum_their_gradients_as_ddp_does(dataset, tmp_path):
    settings = [f"data.dataset={dataset}", *ONE_EPOCH]
    for form in ("none", "graphs"):
        ranks = start_ranks(2, train_run, tmp_path / form, f"train.compile={form}", *settings)
        assert finish(ranks) == [0, 0]
    assert_same_bits(tmp_path / "none", tmp_path / "graphs")


def gpu_state(folder, *settings: str) -> TrainingState:
    """Return the state of a new run on a GPU, in which equal steps give equal bits."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    config = load(None, [*SETTINGS, "run.device=cuda", "train.deterministic=true", *settings])
    info = SimpleNamespace(classes=tuple("abcdef"), multi_label=False, digest="none")
    world = World(0, 0, 1, torch.device("cuda", 0))
    return TrainingState(config, Run(folder), world, info, num_steps=10)


def gpu_batches(count: int, clips: int = 4) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)
    return [
        Batch(
            torch.randint(256, (clips, 4, 1, 32, 32, 3), generator=generator).byte().cuda(),
            torch.randint(0, 6, (clips,), generator=generator).cuda(),
            torch.arange(clips).cuda(),
        )
        for _ in range(count)
    ]


@pytest.fixture
def _deterministic():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("settings", [[], ["train.ema=0.9", "train.nan=skip"]], ids=str)
def test_replayed_steps_have_the_bits_of_eager_steps(tmp_path, settings):
    found = []
    for form in ("none", "graphs"):
        state = gpu_state(tmp_path / form, f"train.compile={form}", *settings)
        norms = []
        for batch in gpu_batches(6):
            norms.append(float(train_step(state, [batch])))
            state.step += 1
        found.append((norms, state.model.state_dict(), state.sums.total(state.world)))
    assert found[0][0] == found[1][0]
    assert found[0][2] == found[1][2]
    for name, value in found[0][1].items():
        assert torch.equal(value, found[1][1][name]), name


@pytest.mark.gpu
@pytest.mark.usefixtures("_deterministic")
def test_a_batch_with_fewer_clips_runs_eagerly_between_replays(tmp_path):
    batches = gpu_batches(4)
    batches.insert(2, gpu_batches(1, clips=3)[0])
    found = []
    for form in ("none", "graphs"):
        state = gpu_state(tmp_path / form, f"train.compile={form}")
        for batch in batches:
            train_step(state, [batch])
            state.step += 1
        found.append(state.model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["none", "graphs"])
@pytest.mark.parametrize("settings", [[], ["train.nan=skip", "train.ema=0.9"]], ids=str)
def test_the_host_never_waits_for_a_gpu_in_a_step(tmp_path, form, settings):
    state = gpu_state(tmp_path, f"train.compile={form}", "train.deterministic=false", *settings)
    batches = gpu_batches(2)
    for batch in batches:  # allocate memory, choose kernels, capture
        train_step(state, [batch])
        state.step += 1
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(state, [batches[0]])
    finally:
        torch.cuda.set_sync_debug_mode("default")

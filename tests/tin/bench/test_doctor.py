"""`tin doctor` finds what slows a run: five disturbances of the code that really runs."""

import functools
import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from rank_processes import finish, start_ranks
from short_runs import SETTINGS
from synthetic_dataset import write_dataset
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from configs.load import load
from pipeline.loader import ClipLoader
from pipeline.store import FrameStore
from tin.bench import doctor
from tin.bench.diagnosis import Diagnosis
from tin.bench.diagnosis import load as load_diagnosis
from tin.models.network import TIN
from tin.ranks.distributed import start
from tin.training.state import TrainingState

RUN = (
    *SETTINGS, "clip.num_segments=2", "clip.crop=64", "clip.resize=64", "train.batch=1",
    "train.evaluate_every=20", "run.readers=1",
)  # fmt: skip
RANKS = (
    *RUN,
    "model.arch=mobilenetv2",
    "model.temporal=none",
    "clip.num_segments=4",
    "train.batch=16",  # so that the pass takes much longer than the sum of the gradients
)
DISTURBANCES = {"staging", "threads", "compile", "batch", "accumulate", "checkpoint"}
"""Advice that an undisturbed run must not get."""
SECONDS = 3.0


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("doctor") / "dataset"
    return write_dataset(folder, [4] * 120, per_shard=30, sizes=((96, 72),))


def examine(dataset: Path, folder: Path) -> Diagnosis:
    """Examine a run of one rank with one thread, on a node of 4 CPUs."""
    with pytest.MonkeyPatch.context() as patch, start("cpu") as world:
        patch.setattr(doctor, "cpus", lambda: 4)
        config = load(None, [*RUN, f"data.dataset={dataset}"])
        found = doctor.examine(config, folder, world, SECONDS)
    assert found
    assert not list(folder.iterdir()), "the temporary run was not removed"
    return found


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory) -> Diagnosis:
    """Return what is found without a disturbance.

    Disturbances last as many times longer as this machine is slower at the moment.
    """
    return examine(dataset, tmp_path_factory.mktemp("undisturbed"))


def slowed(function, seconds: float):
    """Return the function behind a wrapper that sleeps first."""

    @functools.wraps(function)
    def slow(*arguments, **options):
        time.sleep(seconds)
        return function(*arguments, **options)

    return slow


def kinds(found: Diagnosis) -> set[str]:
    return {advice.kind for advice in found.advice}


def test_an_undisturbed_run_gets_no_advice_about_disturbances(undisturbed):
    found = undisturbed
    assert found.bound in ("forward", "backward"), found
    assert not kinds(found) & DISTURBANCES, found
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.times.all_reduce == found.times.transfer == 0  # one rank, and no other device


def test_slow_storage_bounds_the_run(undisturbed, dataset, tmp_path, monkeypatch):
    # A clip has two frames, which one thread reads.
    slow = slowed(FrameStore.pread, 3 * undisturbed.times.step)
    monkeypatch.setattr(FrameStore, "pread", slow)
    found = examine(dataset, tmp_path)
    assert found.bound == "read", found
    assert found.advice[0].kind == "staging", found
    assert "threads" not in kinds(found)


def test_one_decode_thread_bounds_the_run(undisturbed, dataset, tmp_path, monkeypatch):
    slow = slowed(ClipLoader._finish, 5 * undisturbed.times.step)  # waits for decoded frames
    monkeypatch.setattr(ClipLoader, "_finish", slow)
    found = examine(dataset, tmp_path)
    assert found.bound == "decode", found
    assert found.advice[0].kind == "threads", found
    assert "staging" not in kinds(found)
    assert 1.2 < found.advice[0].gain < 5  # at most 4, as far as the times are exact


def test_a_slow_model_bounds_the_run(undisturbed, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(TIN, "forward", slowed(TIN.forward, 10 * undisturbed.times.step))
    found = examine(dataset, tmp_path)
    assert found.bound == "forward", found
    assert {"compile", "batch"} <= kinds(found), found
    assert not kinds(found) & {"staging", "threads", "checkpoint"}


def test_a_slow_disk_for_checkpoints_bounds_the_run(undisturbed, dataset, tmp_path, monkeypatch):
    # A checkpoint flushes a file and its folder; it takes longer than an epoch's steps.
    epoch_s = undisturbed.times.step * undisturbed.conditions.steps
    monkeypatch.setattr(os, "fsync", slowed(os.fsync, 0.7 * epoch_s))
    found = examine(dataset, tmp_path)
    assert found.bound == "checkpoint", found
    assert found.advice[0].kind == "checkpoint", found
    assert not kinds(found) & {"staging", "threads", "compile"}


def _examine_ranks(dataset: Path, out: Path, seconds: float) -> None:
    """Examine a run on this rank, whose link sleeps before each all-reduce."""
    if seconds:
        dist.all_reduce = slowed(dist.all_reduce, seconds)
        wrap = TrainingState._wrap

        def slow_wrap(state):
            replica = wrap(state)
            replica.register_comm_hook(None, slowed(allreduce_hook, seconds))
            return replica

        TrainingState._wrap = slow_wrap
    torch.manual_seed(0)
    with start("cpu") as world:
        config = load(None, [*RANKS, f"data.dataset={dataset}"])
        found = doctor.examine(config, out.parent, world, SECONDS)
    if found:
        found.save(out)


def test_a_slow_link_between_ranks_bounds_the_run(dataset, tmp_path):
    def measured(name: str, seconds: float) -> Diagnosis:
        out = tmp_path / f"{name}.json"
        assert finish(start_ranks(2, _examine_ranks, dataset, out, seconds)) == [0, 0]
        return load_diagnosis(out)

    undisturbed = measured("undisturbed", 0.0)
    assert undisturbed.conditions.ranks == 2
    assert "accumulate" not in kinds(undisturbed), undisturbed
    # DDP sums the gradients in several buckets, each of which sleeps.
    found = measured("slow", 0.6 * undisturbed.times.step)
    assert found.bound == "all-reduce", found
    assert found.advice[0].kind == "accumulate", found


def test_a_run_of_cross_validation_is_examined_with_the_videos_of_its_fold(tmp_path):
    folder = write_dataset(tmp_path / "d", [4] * 8, groups="abcd")
    run = tmp_path / "run"
    run.mkdir()
    settings = ("data.folds=2", "data.test_split=fold", "model.temporal=none")
    config = load(None, [*RUN, f"data.dataset={folder}", *settings])
    with start("cpu") as world:
        found = doctor.examine(config, run, world, 0.5)
    assert found
    assert found.times.evaluation > 0

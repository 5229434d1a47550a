"""Evaluation: every video once at any number of ranks, and what `tin test` writes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rank_processes import finish, start_ranks
from synthetic_dataset import CLASSES, write_dataset

from configs.load import ConfigError, dump, load
from pipeline.batches import BadDataError
from pipeline.loader import ClipLoader
from preprocess.shards import open_split, shard_name
from tin.evaluation.evaluate import evaluate
from tin.evaluation.evaluate import test as measure
from tin.evaluation.scores import load as load_scores
from tin.evaluation.scores import load_result
from tin.models.network import build_model
from tin.ranks.distributed import start
from tin.runs import checkpoint
from tin.runs.folder import Run

NUM_VIDEOS = 7  # no multiple of ranks or of test.batch
BROKEN = 3  # all frames of this video are damaged
SETTINGS = (
    "model.arch=resnet18", "model.init=none", "clip.num_segments=2", "clip.crop=32",
    "clip.resize=40", "test.batch=2", "data.test_split=train", "run.threads=1", "run.device=cpu",
)  # fmt: skip


def _dataset(folder: Path, **facts) -> Path:
    write_dataset(folder, [6] * NUM_VIDEOS, sizes=((48, 40), (40, 52)), **facts)
    split = open_split(folder, "train")
    first = split.videos["first_frame"][BROKEN]
    for frame in split.frames[first : first + 6]:
        path = folder / shard_name("train", int(frame["shard"]))
        data = bytearray(path.read_bytes())
        data[int(frame["offset"]) + 30] ^= 0xFF
        path.write_bytes(data)
    return folder


def _run(folder: Path, *settings: str, classes=CLASSES, name="best.pt", ema=False) -> Path:
    config = load(None, [*SETTINGS, *settings])
    torch.manual_seed(1)
    model, other = (build_model(config, len(classes)) for _ in range(2))
    state = {
        "config": config.model_dump(mode="json"), "classes": list(classes), "epoch": 2, "step": 0,
        "global_step": 30, "model": model.state_dict(), "ema": other.state_dict() if ema else None,
    }  # fmt: skip
    checkpoint.save(Run(folder), state, name)
    (folder / "config.yaml").write_text(dump(config))
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return _dataset(tmp_path_factory.mktemp("data") / "tiny")


def _test(run: Path, *settings: str) -> Path:
    with start("cpu") as world:
        return measure(run, settings, world)


def _measure(run: Path) -> None:
    _test(run)


def test_every_video_is_scored_once_at_one_two_and_three_ranks(dataset, tmp_path):
    run = _run(tmp_path / "run", f"data.dataset={dataset}", "test.clips=2", "test.crops=3")
    out = _test(run)
    assert out == run / "tests" / "train-2x3-32"
    alone, result = load_scores(out), load_result(out)
    assert alone.keys == [f"video{i}" for i in range(NUM_VIDEOS) if i != BROKEN]
    assert alone.labels.tolist() == [i % 3 for i in range(NUM_VIDEOS) if i != BROKEN]
    assert alone.scores.shape == (NUM_VIDEOS - 1, 6, 3)
    assert (result["num_videos"], result["missing"]) == (NUM_VIDEOS, [f"video{BROKEN}"])
    assert result["bad_frames"] > 0
    for world_size in (2, 3):
        assert finish(start_ranks(world_size, _measure, run)) == [0] * world_size
        several = load_scores(out)
        assert several.keys == alone.keys
        np.testing.assert_array_equal(several.labels, alone.labels)
        np.testing.assert_allclose(several.scores, alone.scores, atol=1e-5)
        np.testing.assert_array_equal(several.mean.argmax(1), alone.mean.argmax(1))
        again = load_result(out)
        assert again["environment"]["world_size"] == world_size
        assert again["missing"] == result["missing"]
        assert again["bad_frames"] == result["bad_frames"]


def test_scores_are_the_softmax_of_each_view_alone(dataset):
    config = load(None, [*SETTINGS, "test.crops=3"])
    model = build_model(config, 3).eval()
    with start("cpu") as world:
        scores = evaluate(model, _loader(dataset, config), world, "float32", "nll")
        one = _loader(dataset, load(None, [*SETTINGS, "test.crops=3", "test.batch=1"]))
        batches = [batch for batch in one.epoch(0) if batch.clips[0] >= 0]
    assert len(batches) == len(scores.keys)
    for row, batch in enumerate(batches):
        with torch.no_grad():
            for view in range(3):
                want = model(batch.x[:, view]).softmax(1)[0]
                torch.testing.assert_close(torch.from_numpy(scores.scores[row, view]), want)


@pytest.mark.parametrize(
    ("protocol", "num_views"),
    [
        ("test.clips=1 test.crops=1", 1),
        ("test.clips=2 test.crops=3 test.crop=40", 6),  # full resolution: the short side is 40
        ("test.clips=10 test.crops=3", 30),
        ("test.clips=1 test.crops=5", 5),
        ("test.clips=1 test.crops=10", 10),
    ],
)
def test_protocols_have_their_views_and_no_chance(dataset, protocol, num_views):
    config = load(None, [*SETTINGS, *protocol.split()])
    model = build_model(config, 3)
    with start("cpu") as world:
        one, two = (
            evaluate(model, _loader(dataset, config), world, "float32", "nll") for _ in range(2)
        )
    assert one.scores.shape == (NUM_VIDEOS - 1, num_views, 3)
    np.testing.assert_array_equal(one.scores, two.scores)


@pytest.mark.gpu
def test_scores_of_a_gpu_are_near_those_of_the_cpu(dataset):
    config = load(None, [*SETTINGS, "test.crops=3"])
    model, found = build_model(config, 3), []
    for device in ("cpu", "cuda"):
        with start(device) as world:
            loader = ClipLoader(dataset, "train", config, training=False, device=str(world.device))
            found.append(evaluate(model.to(world.device), loader, world, "float32", "nll"))
    assert found[0].keys == found[1].keys
    np.testing.assert_allclose(found[0].scores, found[1].scores, atol=0.01)


def test_several_labels_give_sigmoid_scores_and_average_precision(tmp_path):
    labels = [["left"], ["right", "still"]]
    dataset = _dataset(tmp_path / "data", labels=labels, multi_label=True)
    run = _run(tmp_path / "run", f"data.dataset={dataset}", "train.loss=bce")
    out = _test(run)
    scores = load_scores(out)
    assert scores.labels[:2].tolist() == [[1, 0, 0], [0, 1, 1]]
    assert set(load_result(out)["metrics"]) == {"map_class", "map_sample", "loss"}
    assert not np.allclose(scores.scores.sum(2), 1)  # a softmax would sum to 1


def test_bfloat16_scores_are_near_those_of_float32(dataset):
    config = load(None, SETTINGS)
    model = build_model(config, 3)
    with start("cpu") as world:
        exact, coarse = (
            evaluate(model, _loader(dataset, config), world, precision, "nll").scores
            for precision in ("float32", "bfloat16")
        )
    assert 0 < np.abs(exact - coarse).max() < 0.02


def test_the_result_says_what_was_measured(dataset, tmp_path):
    run = _run(tmp_path / "run", f"data.dataset={dataset}")
    result = load_result(_test(run, "test.crop=40"))
    facts = ("split", "views", "crop", "dataset", "checkpoint", "epoch", "step", "ema", "precision")
    assert [result[name] for name in facts] == [
        "train", "1x1", 40, "tiny", "best.pt", 2, 30, False, "float32"
    ]  # fmt: skip
    assert len(result["dataset_digest"]) == 64 or not result["dataset_digest"]
    assert set(result["metrics"]) == {"top1", "top5", "mean_class", "pair", "loss"}
    assert result["params"] == sum(
        p.numel() for p in build_model(load(None, SETTINGS), 3).parameters()
    )
    assert result["clips_per_s"] > 0
    assert result["environment"]["versions"]["torch"]


def test_averaged_weights_are_tested_where_there_are_any(dataset, tmp_path):
    plain = _run(tmp_path / "plain", f"data.dataset={dataset}")
    averaged = _run(tmp_path / "averaged", f"data.dataset={dataset}", ema=True)
    state = checkpoint.load(averaged / "checkpoints" / "best.pt")
    checkpoint.save(Run(plain), {**state, "model": state["ema"], "ema": None}, "best.pt")
    one, two = load_scores(_test(plain)), load_scores(_test(averaged))
    np.testing.assert_array_equal(one.scores, two.scores)
    assert load_result(averaged / "tests" / "train-1x1-32")["ema"]


def test_the_last_checkpoint_is_tested_when_asked(dataset, tmp_path):
    run = _run(tmp_path / "run", f"data.dataset={dataset}", name="step-00000030-a01.pt")
    with pytest.raises(checkpoint.CheckpointError, match=r"try test\.checkpoint=last"):
        _test(run)
    out = _test(run, "test.checkpoint=last")
    assert load_result(out)["checkpoint"] == "step-00000030-a01.pt"


@pytest.mark.parametrize("setting", ["clip.num_segments=4", "model.arch=resnet34"])
def test_other_settings_than_of_test_run_and_data_are_refused(dataset, tmp_path, setting):
    run = _run(tmp_path / "run", f"data.dataset={dataset}")
    with pytest.raises(ConfigError, match=f"{setting.split('=')[0]}: .* a test may change"):
        _test(run, setting)


def test_a_dataset_of_other_classes_is_refused(dataset, tmp_path):
    run = _run(tmp_path / "run", f"data.dataset={dataset}", classes=("left", "still", "right"))
    with pytest.raises(ConfigError, match="class 1 was 'still', is 'right'"):
        _test(run)
    fewer = _run(tmp_path / "fewer", f"data.dataset={dataset}", classes=("left", "right"))
    with pytest.raises(ConfigError, match=r"other classes .* \(2, now 3\)"):
        _test(fewer)


def test_a_split_that_is_damaged_beyond_the_limit_is_refused(tmp_path):
    dataset = write_dataset(tmp_path / "data", [2] * 12, sizes=((48, 40),), per_shard=12)
    path = dataset / shard_name("train", 0)
    split, data = open_split(dataset, "train"), bytearray(path.read_bytes())
    for frame in split.frames:
        data[int(frame["offset"]) + 30] ^= 0xFF
    path.write_bytes(data)
    run = _run(tmp_path / "run", f"data.dataset={dataset}")
    with pytest.raises(BadDataError, match="more than 20"):
        _test(run)
    assert not (run / "tests").exists()


def _loader(dataset: Path, config) -> ClipLoader:
    return ClipLoader(dataset, "train", config, training=False)

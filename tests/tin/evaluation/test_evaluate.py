"""Evaluation scores each video once at any number of ranks, and `tin test` writes the result."""

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
from preprocess.tables import group_number
from tin.evaluation.evaluate import evaluate
from tin.evaluation.evaluate import test as measure
from tin.evaluation.scores import load as load_scores
from tin.evaluation.scores import load_result
from tin.models.clip_input import normalized
from tin.models.network import build_model
from tin.ranks.distributed import start
from tin.runs import checkpoint
from tin.runs.folder import Run

NUM_VIDEOS = 7  # not a multiple of the number of ranks or of test.batch
BROKEN = 3  # all frames of this video are damaged
SETTINGS = (
    "model.arch=resnet18", "model.init=none", "clip.num_segments=2", "clip.crop=32",
    "clip.resize=40", "test.batch=2", "data.test_split=train", "run.threads=1", "run.device=cpu",
)  # fmt: skip


def _dataset(folder: Path, **facts) -> Path:
    """Write a dataset of seven videos, one of which has no intact frame."""
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
    """Write the folder of a trained run with one checkpoint; `ema` holds other weights."""
    config = load(None, [*SETTINGS, *settings])
    torch.manual_seed(1)
    model = build_model(config, len(classes))
    other = build_model(config, len(classes))
    state = {
        "config": config.model_dump(mode="json"),
        "classes": list(classes),
        "epoch": 2,
        "step": 0,
        "global_step": 30,
        "model": model.state_dict(),
        "ema": other.state_dict() if ema else None,
    }
    checkpoint.save(Run(folder), state, name)
    (folder / "config.yaml").write_text(dump(config))
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return _dataset(tmp_path_factory.mktemp("data") / "tiny")


def _test(run_dir: Path, *settings: str) -> Path:
    with start("cpu") as world:
        return measure(run_dir, settings, world)


def _test_on_a_rank(run_dir: Path) -> None:
    _test(run_dir)


def test_each_video_is_scored_once_at_one_two_and_three_ranks(dataset, tmp_path):
    run_dir = _run(tmp_path / "run", f"data.dataset={dataset}", "test.clips=2", "test.crops=3")
    out = _test(run_dir)
    assert out == run_dir / "tests" / "train-2x3-32"
    alone = load_scores(out)
    result = load_result(out)
    assert alone.keys == [f"video{i}" for i in range(NUM_VIDEOS) if i != BROKEN]
    assert alone.labels.tolist() == [i % 3 for i in range(NUM_VIDEOS) if i != BROKEN]
    assert alone.scores.shape == (NUM_VIDEOS - 1, 6, 3)
    assert (result["num_videos"], result["missing"]) == (NUM_VIDEOS, [f"video{BROKEN}"])
    assert result["bad_frames"] > 0
    for world_size in (2, 3):
        assert finish(start_ranks(world_size, _test_on_a_rank, run_dir)) == [0] * world_size
        several = load_scores(out)
        assert several.keys == alone.keys
        np.testing.assert_array_equal(several.labels, alone.labels)
        np.testing.assert_allclose(several.scores, alone.scores, atol=1e-5)
        np.testing.assert_array_equal(several.mean.argmax(1), alone.mean.argmax(1))
        again = load_result(out)
        assert again["environment"]["world_size"] == world_size
        assert again["missing"] == result["missing"]
        assert again["bad_frames"] == result["bad_frames"]


def test_scores_are_the_softmax_of_each_single_view(dataset):
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
                want = model(normalized(batch.x[:, view])).softmax(1)[0]
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
def test_each_protocol_has_its_views_and_no_randomness(dataset, protocol, num_views):
    config = load(None, [*SETTINGS, *protocol.split()])
    model = build_model(config, 3)
    with start("cpu") as world:
        one = evaluate(model, _loader(dataset, config), world, "float32", "nll")
        two = evaluate(model, _loader(dataset, config), world, "float32", "nll")
    assert one.scores.shape == (NUM_VIDEOS - 1, num_views, 3)
    np.testing.assert_array_equal(one.scores, two.scores)


@pytest.mark.gpu
def test_scores_on_a_gpu_are_close_to_those_on_a_cpu(dataset):
    config = load(None, [*SETTINGS, "test.crops=3"])
    model = build_model(config, 3)
    found = []
    for device in ("cpu", "cuda"):
        with start(device) as world:
            loader = ClipLoader(dataset, "train", config, training=False, device=str(world.device))
            found.append(evaluate(model.to(world.device), loader, world, "float32", "nll"))
    assert found[0].keys == found[1].keys
    np.testing.assert_allclose(found[0].scores, found[1].scores, atol=0.01)


def test_several_labels_give_sigmoid_scores_and_average_precision(tmp_path):
    labels = [["left"], ["right", "still"]]
    dataset = _dataset(tmp_path / "data", labels=labels, multi_label=True)
    run_dir = _run(tmp_path / "run", f"data.dataset={dataset}", "train.loss=bce")
    out = _test(run_dir)
    scores = load_scores(out)
    assert scores.labels[:2].tolist() == [[1, 0, 0], [0, 1, 1]]
    assert set(load_result(out)["metrics"]) == {"map_class", "map_sample", "loss"}
    assert not np.allclose(scores.scores.sum(2), 1)  # a softmax would sum to 1


def test_bfloat16_scores_are_close_to_float32_scores(dataset):
    config = load(None, SETTINGS)
    model = build_model(config, 3)
    with start("cpu") as world:
        exact = evaluate(model, _loader(dataset, config), world, "float32", "nll")
        coarse = evaluate(model, _loader(dataset, config), world, "bfloat16", "nll")
    assert 0 < np.abs(exact.scores - coarse.scores).max() < 0.02


def test_the_result_records_what_was_measured(dataset, tmp_path):
    run_dir = _run(tmp_path / "run", f"data.dataset={dataset}")
    result = load_result(_test(run_dir, "test.crop=40"))
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


def test_a_result_says_whether_scores_or_logits_were_averaged(dataset, tmp_path):
    run_dir = _run(tmp_path / "run", f"data.dataset={dataset}", "test.clips=2")
    out = _test(run_dir)
    assert load_result(out)["average"] == "scores"
    by_scores = load_scores(out)
    out = _test(run_dir, "test.average=logits")
    assert out.name == "train-2x1-32+average=logits"  # beside the test with other options
    assert load_result(out)["average"] == "logits"
    by_logits = load_scores(out)
    np.testing.assert_array_equal(by_logits.scores, by_scores.scores)  # the file's format is one
    log_mean = np.log(by_scores.scores.astype(float)).mean(axis=1)
    expected = np.exp(log_mean) / np.exp(log_mean).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(by_logits.mean, expected, rtol=1e-9)


def test_the_averaged_weights_are_tested_if_the_checkpoint_has_them(dataset, tmp_path):
    plain = _run(tmp_path / "plain", f"data.dataset={dataset}")
    averaged = _run(tmp_path / "averaged", f"data.dataset={dataset}", ema=True)
    state = checkpoint.load(averaged / "checkpoints" / "best.pt")
    checkpoint.save(Run(plain), {**state, "model": state["ema"], "ema": None}, "best.pt")
    one = load_scores(_test(plain))
    two = load_scores(_test(averaged))
    np.testing.assert_array_equal(one.scores, two.scores)
    assert load_result(averaged / "tests" / "train-1x1-32")["ema"]


def test_the_last_checkpoint_is_tested_when_asked(dataset, tmp_path):
    run_dir = _run(tmp_path / "run", f"data.dataset={dataset}", name="step-00000030-a01.pt")
    with pytest.raises(checkpoint.CheckpointError, match=r"try test\.checkpoint=last"):
        _test(run_dir)
    out = _test(run_dir, "test.checkpoint=last")
    assert load_result(out)["checkpoint"] == "step-00000030-a01.pt"


def test_the_groups_of_the_videos_are_stored_with_the_scores(tmp_path):
    names = ("anna", "ben", "anna", "carl", "ben", "anna", "dora")
    dataset = _dataset(tmp_path / "data", groups=names)
    scores = load_scores(_test(_run(tmp_path / "run", f"data.dataset={dataset}")))
    # The fourth video, the only one of its group, has no intact frame.
    wanted = [group_number(name) for name in names if name != "carl"]
    assert scores.groups.tolist() == wanted


@pytest.mark.parametrize("setting", ["clip.num_segments=4", "model.arch=resnet34"])
def test_only_settings_of_test_run_and_data_can_change(dataset, tmp_path, setting):
    run_dir = _run(tmp_path / "run", f"data.dataset={dataset}")
    with pytest.raises(ConfigError, match=f"{setting.split('=')[0]}: .* A test may change"):
        _test(run_dir, setting)


def test_a_dataset_with_other_classes_is_rejected(dataset, tmp_path):
    run_dir = _run(tmp_path / "run", f"data.dataset={dataset}", classes=("left", "still", "right"))
    with pytest.raises(ConfigError, match="class 1 was 'still' and is now 'right'"):
        _test(run_dir)
    fewer = _run(tmp_path / "fewer", f"data.dataset={dataset}", classes=("left", "right"))
    with pytest.raises(ConfigError, match="other classes .* the run has 2 and the dataset 3"):
        _test(fewer)


def test_a_split_with_too_many_damaged_frames_is_rejected(tmp_path):
    dataset = write_dataset(tmp_path / "data", [2] * 12, sizes=((48, 40),), per_shard=12)
    path = dataset / shard_name("train", 0)
    split = open_split(dataset, "train")
    data = bytearray(path.read_bytes())
    for frame in split.frames:
        data[int(frame["offset"]) + 30] ^= 0xFF
    path.write_bytes(data)
    run_dir = _run(tmp_path / "run", f"data.dataset={dataset}")
    with pytest.raises(BadDataError, match="more than 20"):
        _test(run_dir)
    assert not (run_dir / "tests").exists()


def _loader(dataset: Path, config) -> ClipLoader:
    return ClipLoader(dataset, "train", config, training=False)

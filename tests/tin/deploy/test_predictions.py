"""Predictions at scale: equal to a test, once per video, and the same bytes after kills."""

import csv
import hashlib
import json
import random
import time
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from rank_processes import finish, kill, start_ranks
from synthetic_dataset import flip_byte, write_dataset
from untrained_run import write_run

from configs.load import ConfigError
from pipeline.batches import BadDataError
from tin.deploy.part_files import calibration_error, join_parts
from tin.deploy.parts import Part, PartError, load_part, part_path, save_part
from tin.deploy.predictions import _start, predict_all
from tin.deploy.video_lists import list_videos
from tin.evaluation.evaluate import test as measure
from tin.evaluation.scores import load as load_scores
from tin.evaluation.scores import load_result, summarize
from tin.ranks.distributed import start

ALL = ("predict.part=4", "predict.scores=true", "predict.features=true")


def predict(run_dir: Path, sources: list[Path], out: Path, *settings: str) -> dict:
    """Predict on one rank; return result.json."""
    with start("cpu") as world:
        return predict_all(run_dir, sources, out, settings, world)


def predict_on_a_rank(run_dir: Path, sources: list[Path], out: Path, *settings: str) -> None:
    with start("cpu") as world:
        predict_all(run_dir, sources, out, settings, world)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def tested(make_run):
    """A run with its test: two clips and five crops of each video."""
    run_dir = make_run("test.clips=2", "test.crops=5")
    with start("cpu") as world:
        return run_dir, measure(run_dir, [], world)


@pytest.fixture(scope="module")
def from_shards(tested, dataset, tmp_path_factory):
    run_dir, _ = tested
    out = tmp_path_factory.mktemp("from-shards") / "out"
    return out, predict(run_dir, [dataset], out, *ALL)


def test_from_shards_the_scores_equal_those_of_a_test_bit_for_bit(tested, from_shards):
    out, result = from_shards
    scores = load_scores(tested[1])
    found = np.load(out / "scores.npy", mmap_mode="r")
    assert found.shape == (16, 10, 8)
    assert found.tobytes() == scores.scores.tobytes()
    assert [row["key"] for row in rows_of(out / "keys.csv")] == scores.keys
    metrics = summarize(scores)
    assert result["metrics"]["top1"] == metrics["top1"]
    assert result["metrics"]["top5"] == metrics["top5"]
    # the calibration error by its definition, a bin after the other
    confidence = scores.mean.max(1)
    right = scores.mean.argmax(1) == scores.labels
    gaps = []
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            gap = abs(confidence[inside].mean() - right[inside].mean())
            gaps.append(inside.mean() * gap)
    assert result["metrics"]["ece"] == pytest.approx(sum(gaps))


def test_videos_with_several_labels_are_measured_as_in_a_test(tmp_path):
    labels = (("left", "still"), ("right",), ("left", "right"))
    sizes = ((48, 40), (64, 48))
    dataset = write_dataset(
        tmp_path / "several", [9] * 6, labels=labels, sizes=sizes, multi_label=True
    )
    settings = ("train.loss=bce", "data.test_split=train", "shard.multi_label=true")
    run_dir = write_run(tmp_path / "run", dataset, *settings)
    with start("cpu") as world:
        metrics = summarize(load_scores(measure(run_dir, [], world)))
    result = predict(run_dir, [dataset], tmp_path / "out", "predict.part=4")
    assert result["num_labeled"] == 6
    assert 0.4 < metrics["map_sample"] < 1
    assert result["metrics"] == {"map_sample": pytest.approx(metrics["map_sample"], rel=1e-12)}


def test_averages_of_logits_follow_the_setting_of_tests(tested, from_shards, dataset, tmp_path):
    run_dir, test_dir = tested
    settings = (*ALL, "test.average=logits")
    predict(run_dir, [dataset], tmp_path / "out", *settings)
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    logs = np.log(load_scores(test_dir).scores.astype(np.float64)).mean(1)
    want = np.exp(logs) / np.exp(logs).sum(1, keepdims=True)
    found = [float(row["score1"]) for row in rows]
    np.testing.assert_allclose(found, want.max(1), atol=1e-6)


def test_models_of_optical_flow_read_shards_only(make_run, videos, tmp_path):
    with pytest.raises(ConfigError, match="sees optical flow"):
        predict(make_run("clip.modality=flow"), [videos], tmp_path / "out")


def test_a_row_has_the_best_classes_with_their_scores_and_the_labels(tested, from_shards):
    out, _ = from_shards
    scores = load_scores(tested[1])
    rows = rows_of(out / "predictions.csv")
    assert len(rows) == 16
    for row, mean, label in zip(rows, scores.mean, scores.labels, strict=True):
        order = np.argsort(-mean, kind="stable")
        assert row["labels"] == scores.classes[label]
        assert [row[f"class{k}"] for k in range(1, 6)] == [scores.classes[k] for k in order[:5]]
        assert float(row["score1"]) == pytest.approx(mean[order[0]], abs=1e-6)
    assert not list(out.rglob("part-*"))


def test_the_features_are_the_input_of_the_classifier(tested, from_shards, dataset, tmp_path):
    run_dir, _ = tested
    predict(run_dir, [dataset], tmp_path / "out", *ALL, "test.clips=1", "test.crops=1")
    features = np.load(tmp_path / "out" / "features.npy", mmap_mode="r")
    scores = np.load(tmp_path / "out" / "scores.npy")
    assert features.dtype == np.float16
    assert features.shape == (16, 512)
    # With one view the scores are the softmax of the classifier of the mean over the frames.
    import torch

    weights = torch.load(run_dir / "checkpoints" / "best.pt")["model"]
    logits = torch.from_numpy(features.astype(np.float32)) @ weights["fc.weight"].T
    want = (logits + weights["fc.bias"]).softmax(1)
    np.testing.assert_allclose(scores[:, 0], want, atol=2e-3)


def test_from_files_the_scores_are_close_to_those_from_shards(
    tested, from_shards, videos, tmp_path
):
    run_dir, test_dir = tested
    keys = load_scores(test_dir).keys
    listed = "".join(f"{key.replace('_', '/')}.mp4\n" for key in keys)
    (videos / "list.txt").write_text(listed)
    predict(run_dir, [videos / "list.txt"], tmp_path / "out", *ALL)
    found = np.load(tmp_path / "out" / "scores.npy").mean(1)
    want = np.load(from_shards[0] / "scores.npy").mean(1)
    # Pillow rounds the pixels of a crop to whole gray levels, and DALI does not.
    assert np.abs(found - want).max() < 5e-3
    assert np.ptp(want, axis=0).max() > 0.05


def test_a_list_with_labels_a_folder_and_bad_files(run_dir, videos, tmp_path):
    files = sorted(videos.rglob("*.mp4"))[:3]
    (tmp_path / "text.mp4").write_text("not a video")
    table = tmp_path / "list.csv"
    lines = ["path,labels", *(f"{path},left" for path in files), "text.mp4,left", "gone.mp4,"]
    table.write_text("\n".join(lines))
    result = predict(run_dir, [table], tmp_path / "out", "predict.top=2")
    assert result["num_predicted"] == 3
    assert result["num_bad"] == 2
    assert result["num_labeled"] == 3
    assert set(result["metrics"]) == {"top1", "top5", "ece"}
    bad = {row["key"]: row for row in rows_of(tmp_path / "out" / "bad.csv")}
    assert bad["text.mp4"]["reason"].startswith("the file is not a video")
    assert bad["gone.mp4"] == {
        "key": "gone.mp4", "predicted": "no", "reason": "the file is missing"
    }  # fmt: skip
    assert [row["key"] for row in rows_of(tmp_path / "out" / "predictions.csv")] == list(
        map(str, files)
    )
    assert not (tmp_path / "out" / "scores.npy").exists()
    result = predict(run_dir, [videos], tmp_path / "folder")
    assert result["num_predicted"] == 32
    assert result["metrics"] == {}


def test_a_crash_of_the_decoder_costs_one_video(run_dir, videos, tmp_path, monkeypatch):
    import faulthandler
    import os
    import signal

    from tin.deploy import sources

    files = sorted(videos.rglob("*.mp4"))[:4]
    real = sources.encoded

    def crash(path, config):
        if path == files[1]:
            faulthandler.disable()  # pytest would print where the crash happened
            os.kill(os.getpid(), signal.SIGSEGV)
        return real(path, config)

    monkeypatch.setattr(sources, "encoded", crash)
    result = predict(run_dir, files, tmp_path / "out")
    assert (result["num_predicted"], result["num_bad"]) == (3, 1)
    (bad,) = rows_of(tmp_path / "out" / "bad.csv")
    assert bad["reason"] == "the decoder crashed (SIGSEGV)"


def test_a_decoder_that_hangs_costs_one_video(run_dir, videos, tmp_path, monkeypatch):
    import os

    from tin.deploy import sources

    files = sorted(videos.rglob("*.mp4"))[:4]
    real = sources.encoded
    fifo = tmp_path / "never"
    os.mkfifo(fifo)

    def hang(path, config):
        if path == files[1]:
            fifo.open("rb")  # a FIFO without a writer blocks for ever
        return real(path, config)

    monkeypatch.setattr(sources, "encoded", hang)
    result = predict(run_dir, files, tmp_path / "out", "shard.max_seconds=10")
    assert (result["num_predicted"], result["num_bad"]) == (3, 1)
    (bad,) = rows_of(tmp_path / "out" / "bad.csv")
    assert bad["key"] == str(files[1])
    assert bad["reason"] == "it took longer than shard.max_seconds allows"


def test_a_killed_worker_ends_the_command_and_the_next_one_completes(
    run_dir, videos, tmp_path, monkeypatch
):
    import os
    import signal

    from preprocess.workers import WorkerError
    from tin.deploy import sources

    files = sorted(videos.rglob("*.mp4"))[:8]
    predict(run_dir, files, tmp_path / "whole", *ALL)
    real = sources.encoded

    def killed(path, config):
        if path == files[6]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path, config)

    monkeypatch.setattr(sources, "encoded", killed)
    with pytest.raises(WorkerError, match="SIGKILL"):
        predict(run_dir, files, tmp_path / "out", *ALL)
    monkeypatch.undo()
    predict(run_dir, files, tmp_path / "out", *ALL)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_a_part_without_a_usable_video_is_joined(run_dir, videos, tmp_path):
    good = sorted(videos.rglob("*.mp4"))[0]
    lines = [*(f"gone{number}.mp4" for number in range(4)), str(good)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    result = predict(run_dir, [tmp_path / "list.txt"], tmp_path / "out", *ALL)
    assert (result["num_predicted"], result["num_bad"], result["num_parts"]) == (1, 4, 2)
    assert np.load(tmp_path / "out" / "scores.npy").shape == (1, 1, 8)
    assert np.load(tmp_path / "out" / "features.npy").shape == (1, 512)


def test_a_list_without_a_usable_video_is_an_error(run_dir, tmp_path):
    (tmp_path / "list.txt").write_text("gone0.mp4\ngone1.mp4\n")
    for _ in range(2):  # also when the predictions are finished
        with pytest.raises(BadDataError, match=r"out/bad\.csv: none of 2 videos can be used"):
            predict(run_dir, [tmp_path / "list.txt"], tmp_path / "out")
    assert len(rows_of(tmp_path / "out" / "bad.csv")) == 2


def test_damaged_frames_in_shards_are_named(run_dir, dataset, tmp_path):
    import shutil

    copy = shutil.copytree(dataset, tmp_path / "copy")
    for name in ("videos.npy", "frames.npy", "labels.npy", "csv"):
        shutil.copy(copy / f"val.{name}", copy / f"train.{name}")  # flip_byte changes `train`
    for tar in copy.glob("val-*.tar"):
        shutil.copy(tar, copy / tar.name.replace("val", "train"))
    frames = np.load(copy / "val.videos.npy")["num_frames"][2]
    for frame in range(frames):
        flip_byte(copy, 2, frame)
    result = predict(run_dir, [copy], tmp_path / "out", "data.test_split=train")
    assert (result["num_predicted"], result["num_bad"]) == (15, 1)
    (bad,) = rows_of(tmp_path / "out" / "bad.csv")
    assert bad["predicted"] == "no"
    assert "crc32" in bad["reason"]


def test_parquet_holds_the_rows_of_the_csv(run_dir, dataset, from_shards, tmp_path):
    from pyarrow import parquet

    predict(run_dir, [dataset], tmp_path / "csv")
    predict(run_dir, [dataset], tmp_path / "parquet", "predict.format=parquet")
    table = parquet.read_table(tmp_path / "parquet" / "predictions.parquet").to_pylist()
    rows = rows_of(tmp_path / "csv" / "predictions.csv")
    assert [{name: str(value) for name, value in row.items()} for row in table] == rows


def test_finished_parts_are_not_computed_again(run_dir, dataset, tmp_path, monkeypatch):
    import tin.deploy.predictions as module

    whole = tmp_path / "whole"
    predict(run_dir, [dataset], whole, *ALL)
    saved = []
    real = module.save_part

    def save_two(path, part):
        saved.append(path.name)
        real(path, part)
        if len(saved) == 2:
            raise KeyboardInterrupt

    def save(path, part):
        saved.append(path.name)
        real(path, part)

    monkeypatch.setattr(module, "save_part", save_two)
    with pytest.raises(KeyboardInterrupt):
        predict(run_dir, [dataset], tmp_path / "out", *ALL)
    monkeypatch.setattr(
        module, "save_part", lambda *part: (saved.append(part[0].name), real(*part))
    )
    predict(run_dir, [dataset], tmp_path / "out", *ALL)
    assert saved == [f"part-{number:06d}.npz" for number in range(4)]
    assert digests(tmp_path / "out") == digests(whole)
    predict(run_dir, [dataset], tmp_path / "out", *ALL)  # finished: computes nothing
    assert len(saved) == 4


def test_another_model_or_other_settings_need_another_folder(run_dir, make_run, dataset, tmp_path):
    predict(run_dir, [dataset], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"settings.test.clips: 1 -> 2"):
        predict(run_dir, [dataset], tmp_path / "out", "test.clips=2")
    plan = tmp_path / "out" / "plan.json"
    text = plan.read_text()
    plan.write_text(text.replace('"format": 2', '"format": 1'))  # of an earlier version
    with pytest.raises(ConfigError, match=r"format: 1 -> 2. Choose another folder"):
        predict(run_dir, [dataset], tmp_path / "out")
    plan.write_text(text)
    with pytest.raises(ConfigError, match="checkpoint_digest"):
        predict(make_run("model.temporal=shift"), [dataset], tmp_path / "out")
    with pytest.raises(ConfigError, match="optim.lr"):
        predict(run_dir, [dataset], tmp_path / "other", "optim.lr=1.0")
    with pytest.raises(ConfigError, match="predict it alone"):
        predict(run_dir, [dataset, dataset / "x.mp4"], tmp_path / "other")


def test_wrong_lists_are_rejected(run_dir, videos, tmp_path):
    video = sorted(videos.rglob("*.mp4"))[0]
    with pytest.raises(ConfigError, match="is named 2 times"):
        predict(run_dir, [video, video], tmp_path / "out")
    (tmp_path / "list.csv").write_text(f"path,labels\n{video},flying\n")
    with pytest.raises(ConfigError, match="label flying, which is not a class"):
        predict(run_dir, [tmp_path / "list.csv"], tmp_path / "out")
    (tmp_path / "list.csv").write_text("video\nx.mp4\n")
    with pytest.raises(ConfigError, match="expected a column `path`, found video"):
        predict(run_dir, [tmp_path / "list.csv"], tmp_path / "out")


def test_a_damaged_part_is_named(tmp_path):
    path = tmp_path / "part-000000.npz"
    path.write_bytes(b"PK")
    with pytest.raises(PartError, match=r"part-000000\.npz cannot be read .* remove it"):
        load_part(path)


def test_the_calibration_error_of_a_known_case():
    # Bin (8/15, 9/15] has two scores of mean 0.57 and one hit, bin (14/15, 1] one score and a hit.
    confidences = np.array([0.56, 0.58, 1.0])
    right = np.array([True, False, True])
    assert calibration_error(confidences, right) == pytest.approx(2 / 3 * 0.07)


def test_four_ranks_killed_at_random_write_the_same_bytes(run_dir, dataset, tmp_path):
    settings = ("data.test_split=train", *ALL, "test.batch=1", "predict.part=1")
    predict_on_a_rank(run_dir, [dataset], tmp_path / "whole", *settings)
    want = digests(tmp_path / "whole")
    out = tmp_path / "out"
    draws = random.Random(0)
    num_killed = 0
    for _ in range(3):
        ranks = start_ranks(4, predict_on_a_rank, run_dir, [dataset], out, *settings)
        deadline = time.monotonic() + 120
        # Kill at a random number of finished parts, beginning with a rank after its first file.
        target = draws.randrange(1, 15)
        while not (out / "result.json").exists() and time.monotonic() < deadline:
            if len(list(out.glob("parts/part-*"))) >= target:
                break
            time.sleep(0.005)
        num_killed += any(rank.is_alive() for rank in ranks)
        kill(ranks)
    assert num_killed
    ranks = start_ranks(4, predict_on_a_rank, run_dir, [dataset], out, *settings)
    assert finish(ranks) == [0, 0, 0, 0]
    assert digests(out) == want
    assert json.loads((out / "result.json").read_text())["num_predicted"] == 16
    assert load_result(out)["num_parts"] == 16


def part(first: int, **arrays: np.ndarray) -> Part:
    """Return a part of two videos with scores of three classes; `arrays` differ."""
    values: dict[str, np.ndarray] = {
        "rows": np.array([first, first + 1]),
        "best": np.array([[0], [2]]),
        "best_scores": np.array([[0.5], [0.6]]),
        "label_ranks": np.array([0, -1]),
        "precisions": np.array([1.0, np.nan]),
        "scores": np.full((2, 1, 3), 1 / 3, np.float32),
        "features": np.zeros((2, 0), np.float16),
        "bad_rows": np.zeros(0, np.int64),
        "bad_predicted": np.zeros(0, bool),
        "bad_reasons": np.zeros(0, np.str_),
    }
    return Part(**{**values, **arrays})


def joined(folder: Path, *parts: Part) -> dict:
    """Write parts of four videos and join them."""
    (folder / "parts").mkdir()
    for number, written in enumerate(parts):
        save_part(part_path(folder, number), written)
    return join_parts(folder, len(parts), list("abcd"), lambda _: ["x"], list("xyz"), "csv", False)


def test_intact_parts_are_joined(tmp_path):
    assert joined(tmp_path, part(0), part(2))["num_predicted"] == 4


@pytest.mark.parametrize(
    "arrays",
    [
        {"best_scores": np.array([[0.5], [np.nan]])},
        {"scores": np.full((2, 1, 3), np.inf, np.float32)},
        {"precisions": np.array([1.0, np.inf])},
        {"best": np.array([[0], [3]])},
        {"best": np.array([[0.0], [1.0]])},
        {"best": np.array([[0, 1], [2, 1]]), "best_scores": np.full((2, 2), 0.5)},
        {"label_ranks": np.array([0])},
        {"rows": np.array([3, 2])},
        {"rows": np.array([0, 1])},
        {"rows": np.array([2, 3000])},
        {"bad_rows": np.array([9]), "bad_predicted": np.array([True]),
         "bad_reasons": np.array(["x"])},
        {"scores": np.full((2, 2, 3), 0.5, np.float32)},
    ],
)  # fmt: skip
def test_a_part_with_other_content_is_named(tmp_path, arrays):
    with pytest.raises(PartError, match=r"part-000001\.npz cannot be read"):
        joined(tmp_path, part(0), part(2, **arrays))


def test_a_part_in_the_place_of_another_is_named(tmp_path):
    """The predictions of two videos would be there twice, and those of two others missing."""
    with pytest.raises(PartError, match="its videos are not those from 2 on"):
        joined(tmp_path, part(0), part(0))
    with pytest.raises(PartError, match="the parts have 2 videos, expected 4"):
        join_parts(tmp_path, 1, list("abcd"), lambda _: [], list("xyz"), "csv", False)


def test_a_part_that_announces_a_huge_array_or_is_packed_is_named(tmp_path):
    path = tmp_path / "part-000000.npz"
    arrays = {field.name: getattr(part(0), field.name) for field in fields(Part)}
    np.savez_compressed(path, **arrays)
    with pytest.raises(PartError, match="is compressed"):
        load_part(path)
    np.savez(path, **arrays)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, content in (
        ("rows.npy", members["rows.npy"].replace(b"(2,)", b"(2147483647,)")),
        ("rows.npy", b"no array"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in {**members, name: content}.items():
                archive.writestr(member, data)
        with pytest.raises(PartError, match=r"part-000000\.npz"):
            load_part(path)


@pytest.mark.parametrize("text", ["[]", "5", "{", "\xff", '{"a": NaN}'])
def test_a_damaged_plan_is_named(tmp_path, text):
    (tmp_path / "plan.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"plan\.json"):
        _start(tmp_path, {"format": 2})


@pytest.mark.parametrize("text", [b"\xff", b"path\n,x\n", b"path,labels\n\n,x\n"])
def test_a_damaged_list_of_videos_is_named(tmp_path, text):
    (tmp_path / "list.csv").write_bytes(text)
    with pytest.raises(ConfigError, match=r"list\.csv"):
        list_videos([tmp_path / "list.csv"])

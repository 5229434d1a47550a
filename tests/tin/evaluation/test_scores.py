"""The files of a test, and the metrics and predictions of scores."""

import json
import math
import os
import time

import numpy as np
import pandas as pd
import pytest
import torch

from configs.files import temporary_path
from tin.evaluation import scores as scores_file
from tin.evaluation.opposites import opposites, pair_accuracy
from tin.evaluation.scores import (
    Scores,
    ScoresError,
    load,
    load_result,
    predictions,
    save,
    summarize,
)

CLASSES = ("left", "right", "a, b; c")


def _three_videos() -> Scores:
    views = [
        [[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]],  # mean .6 .3 .1, label 0 ranks first
        [[0.1, 0.2, 0.7], [0.3, 0.4, 0.3]],  # mean .2 .3 .5, label 1 ranks second
        [[0.2, 0.2, 0.6], [0.4, 0.0, 0.6]],  # mean .3 .1 .6, without a label
    ]
    labels = np.array([0, 1, -1])
    return Scores(["x1", "x2", "x3"], labels, np.array(views, np.float32), CLASSES)


def test_saved_scores_are_read_back_unchanged(tmp_path):
    before = _three_videos()
    save(tmp_path / "val", before, {"split": "val"})
    after = load(tmp_path / "val")
    assert (after.keys, after.classes) == (before.keys, before.classes)
    np.testing.assert_array_equal(after.labels, before.labels)
    np.testing.assert_array_equal(after.scores, before.scores)
    assert load_result(tmp_path / "val")["split"] == "val"
    assert sorted(path.name for path in (tmp_path / "val").iterdir()) == [
        "predictions.csv",
        "result.json",
        "scores.npz",
    ]


def test_a_result_of_an_earlier_version_averages_scores(tmp_path):
    save(tmp_path, _three_videos(), {})
    result = load_result(tmp_path)
    del result["average"]
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert load(tmp_path).average == "scores"


def test_an_unknown_average_is_rejected(tmp_path):
    save(tmp_path, _three_videos(), {})
    result = {**load_result(tmp_path), "average": "odds"}
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(ScoresError, match="average is odds, expected one of scores, logits"):
        load(tmp_path)


def test_metrics_of_three_videos_by_hand():
    measures = summarize(_three_videos())
    assert set(measures) == {"top1", "top5", "mean_class", "pair", "loss"}
    assert (measures["top1"], measures["top5"], measures["mean_class"]) == (0.5, 1.0, 0.5)
    assert measures["pair"] == 1.0  # .6 > .3, and .3 > .2 though the third class beats both
    assert measures["loss"] == pytest.approx(-(math.log(0.6) + math.log(0.3)) / 2, rel=1e-6)


def test_metrics_of_videos_with_several_labels_by_hand():
    labels = np.array([[1, 0], [1, 1], [0, 0]], np.uint8)  # the third has no label
    views = np.array([[[0.9, 0.2]], [[0.4, 0.8]], [[0.5, 0.5]]], np.float32)
    measures = summarize(Scores(["a", "b", "c"], labels, views, ("p", "q")))
    assert set(measures) == {"map_class", "map_sample", "loss"}
    assert measures["map_class"] == pytest.approx(1.0)
    assert measures["map_sample"] == pytest.approx(1.0)
    assert measures["loss"] == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.8]).mean(), rel=1e-6)


def test_a_split_without_labels_has_scores_but_no_metrics(tmp_path):
    before = _three_videos()
    save(tmp_path, Scores(before.keys, np.full(3, -1), before.scores, CLASSES), {})
    assert set(load_result(tmp_path)["metrics"].values()) == {None}
    frame = pd.read_csv(tmp_path / "predictions.csv")
    assert frame["label_rank"].isna().all()
    assert frame["labels"].isna().all()


def test_predictions_list_the_label_its_rank_and_the_best_class(tmp_path):
    save(tmp_path, _three_videos(), {})
    frame = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False)
    assert list(frame.columns) == ["key", "labels", "top1", "score", "label_rank"]
    assert frame.astype(str).to_numpy().tolist() == [
        ["x1", "left", "left", "0.6", "1"],
        ["x2", "right", "a, b; c", "0.5", "2"],
        ["x3", "", "a, b; c", "0.6", ""],
    ]


def test_predictions_list_all_labels_and_the_rank_of_the_best():
    labels = np.array([[0, 1, 1]], np.uint8)
    frame = predictions(Scores(["a"], labels, np.float32([[[0.5, 0.1, 0.2]]]), ("p", "q", "r")))
    assert frame.to_numpy().tolist() == [["a", "q;r", "p", 0.5, 2]]


def test_averaging_over_views_equals_the_original_code(shared):
    cases = json.loads((shared / "reference/tables/test_time_averaging.json").read_text())
    for case in cases:
        logits = torch.tensor(case["logits"])
        views = logits.softmax(1).reshape(-1, case["dup_samples"], logits.shape[1]).numpy()
        keys = [str(i) for i in range(len(views))]
        scores = Scores(
            keys, np.array(case["target"]), views, tuple(map(str, range(views.shape[2])))
        )
        np.testing.assert_allclose(scores.mean, case["averaged_probabilities"], atol=1e-6)
        assert summarize(scores)["top1"] == case["prec1"] / 100
        assert summarize(scores)["top5"] == case["prec5"] / 100


def test_a_test_that_did_not_finish_has_no_result(tmp_path, monkeypatch):
    save(tmp_path, _three_videos(), {"split": "val"})
    # The process is killed while it writes scores.npz.
    monkeypatch.setattr(scores_file, "_save_arrays", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tmp_path, _three_videos(), {"split": "val"})
    with pytest.raises(ScoresError, match="the test did not finish"):
        load_result(tmp_path)


def test_leftover_files_of_a_killed_writer_are_removed_after_a_day(tmp_path):
    old = temporary_path(tmp_path / "scores.npz")
    fresh = temporary_path(tmp_path / "scores.npz")  # may belong to a test that is running
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    save(tmp_path, _three_videos(), {})
    assert not old.exists()
    assert fresh.exists()


def _objects(path):
    np.savez(path, keys=np.array([{}], dtype=object), labels=[0], scores=[0], classes=["a"])


def _other_shape(path):
    np.savez(path, keys=["a"], labels=[0], scores=np.ones((2, 1, 1), np.float32), classes=["a"])


def _no_characters(path):
    classes = np.array([0x110000, 0xD800], np.uint32).view("<U1")
    np.savez(path, keys=["a"], labels=[0], scores=np.ones((1, 1, 2), np.float32), classes=classes)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "scores.npz does not exist; run `tin test`"),
        (lambda path: path.write_bytes(b""), "is not a valid scores file"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(90)), "is not a valid scores file"),
        (lambda path: np.savez(path, keys=["a"]), "is not a valid scores file"),
        (_no_characters, "classes has a text that is not Unicode"),
        (_objects, "is not a valid scores file"),
        (_other_shape, r"scores are float32 \(2, 1, 1\), expected float32 \(1, views, 1\)"),
    ],
)
def test_invalid_scores_files_are_rejected(tmp_path, write, message):
    write(tmp_path / "scores.npz")
    with pytest.raises(ScoresError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{", b"\xff"])
def test_invalid_results_are_rejected(tmp_path, text):
    (tmp_path / "result.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ScoresError, match=r"result\.json"):
        load_result(tmp_path)


def test_opposite_classes_are_found_by_their_names():
    classes = ["up", "turn left", "down", "clockwise", "Pulling from left to right", "stay",
               "counter-clockwise", "turn right", "Pulling from right to left", "left-handed",
               "grow", "shrink", "Zooming In", "Zooming Out"]  # fmt: skip
    assert opposites(classes) == [(0, 2), (1, 7), (3, 6), (4, 8), (10, 11), (12, 13)]


def test_pair_accuracy_compares_only_the_two_classes_of_a_pair():
    scores = np.array([[0.1, 0.2, 0.7], [0.1, 0.3, 0.6], [0.2, 0.2, 0.6], [0.0, 0.0, 1.0]])
    labels = np.array([1, 0, 0, 2])  # right, wrong, a tie, not in a pair
    assert pair_accuracy(scores, labels, [(0, 1)]) == pytest.approx(1.5 / 3)
    assert math.isnan(pair_accuracy(scores, np.array([2, 2, 2, -1]), [(0, 1)]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_rejected_with_the_video(value):
    """A comparison with NaN is false, so a label with the score NaN would rank first."""
    values = np.full((3, 2, 4), 0.25, np.float32)
    values[1, 1, 2] = value
    with pytest.raises(ScoresError, match="1 of 3 videos have scores .* the first is b"):
        Scores(["a", "b", "c"], np.array([0, 1, 2]), values, ("w", "x", "y", "z"))


def test_every_flipped_bit_of_a_scores_file_is_found_or_changes_nothing(tmp_path):
    generator = np.random.default_rng(0)
    values = generator.random((5, 1, 4), np.float32)
    wanted = Scores(list("abcde"), np.arange(5) % 4, values, ("w", "x", "y", "z"))
    save(tmp_path, wanted, {})
    data = (tmp_path / "scores.npz").read_bytes()
    num_found = 0
    for _ in range(500):
        flipped = bytearray(data)
        flipped[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
        (tmp_path / "scores.npz").write_bytes(flipped)
        try:
            found = load(tmp_path)
        except ScoresError as error:
            assert "scores.npz" in str(error)
            num_found += 1
        else:
            np.testing.assert_array_equal(found.scores, wanted.scores)
            np.testing.assert_array_equal(found.labels, wanted.labels)
            assert (found.keys, found.classes) == (wanted.keys, wanted.classes)
    assert num_found > 300


def test_a_result_with_numbers_that_are_not_finite_is_rejected(tmp_path):
    for text in ('{"metrics": {"top1": NaN}}', '{"metrics": {"top1": 1e999}}', "[" * 100000):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(ScoresError, match=r"result\.json: is not valid JSON"):
            load_result(tmp_path)

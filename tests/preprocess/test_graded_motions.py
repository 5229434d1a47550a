"""Motions of graded difficulty: every video names what makes it hard, and pairs share frames."""

import csv
import logging
from collections import Counter

import av
import numpy as np
import pytest

from preprocess.graded_motions import DIFFICULTIES, FEW_FRAMES, graded_frames, make_graded_motions
from preprocess.motions import REVERSED, make_motions


def test_each_difficulty_has_the_same_share_and_pairs_are_opposites(tmp_path):
    path = make_graded_motions(tmp_path, train=14, val=28, size=16)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter((row["split"], row["difficulty"]) for row in rows) == {
        (split, name): count for split, count in (("train", 2), ("val", 4)) for name in DIFFICULTIES
    }
    groups = Counter(row["group"] for row in rows)
    assert set(groups.values()) == {2}
    first, second = (row for row in rows if row["group"] == rows[0]["group"])
    assert REVERSED[first["labels"]] == second["labels"]
    frames = [_decoded(tmp_path / row["path"]) for row in (first, second)]
    np.testing.assert_allclose(frames[0], frames[1][::-1], atol=40)  # as the codec allows


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_seed_gives_one_video_of_any_difficulty(difficulty):
    first, second = (
        graded_frames("right", difficulty, 32, np.random.default_rng(1)) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    is_short = difficulty in ("few-frames", "all")
    assert (len(first) == FEW_FRAMES) == is_short
    plain = graded_frames("right", "plain", 32, np.random.default_rng(1))
    assert (difficulty == "plain") == np.array_equal(first, plain)


def test_a_bar_hides_a_third_of_the_frame():
    frames = graded_frames("right", "occlusion", 30, np.random.default_rng(1))
    hidden = (frames == 20).all(axis=(0, 3))
    assert hidden.sum() >= 300


def test_odd_sizes_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="even number"):
        make_graded_motions(tmp_path, train=2, val=2, size=17)


def _decoded(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack(
            [f.to_ndarray(format="rgb24").astype(int) for f in container.decode(video=0)]
        )


@pytest.mark.parametrize("make", [make_motions, make_graded_motions])
def test_progress_is_shown(make, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("configs.progress.INTERVAL_S", -1.0)
    monkeypatch.delenv("TIN_QUIET", raising=False)
    with caplog.at_level(logging.INFO):
        make(tmp_path, train=2, val=2, size=16)
    assert "pairs of videos: 1 of 2" in caplog.text

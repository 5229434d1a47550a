"""Damaged frames in training: replaced and listed up to a limit, beyond which the run fails."""

import pandas as pd
import pytest
from short_runs import NUM_VIDEOS, train_run
from synthetic_dataset import flip_byte, write_dataset

from pipeline.batches import BadDataError


def test_damaged_frames_are_replaced_and_listed_up_to_the_limit(tmp_path):
    dataset = write_dataset(tmp_path / "data", [9] * NUM_VIDEOS, sizes=((48, 40),))
    flip_byte(dataset, 3, 4)
    settings = [f"data.dataset={dataset}", "train.epochs=6", "train.evaluate_every=6"]
    train_run(tmp_path / "run", *settings)
    rows = pd.read_csv(tmp_path / "run" / "bad_frames.csv")
    assert set(rows.key) == {"video3"}
    assert set(rows.frame) == {4}
    # Damage six whole videos: more frames than the limit of 20.
    for video in range(4, 10):
        for frame in range(9):
            flip_byte(dataset, video, frame)
    with pytest.raises(BadDataError, match="bad_frames.csv|damaged"):
        train_run(tmp_path / "other", f"data.dataset={dataset}")
    assert len(pd.read_csv(tmp_path / "other" / "bad_frames.csv")) > 20

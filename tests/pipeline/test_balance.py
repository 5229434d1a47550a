"""Class-balanced training: equal classes, fair turns, and the same clips at any number of ranks."""

from collections import Counter

import numpy as np
from synthetic_dataset import write_dataset

from configs.load import load
from pipeline.balance import BalancedOrder, balanced_order, first_labels
from pipeline.batches import TrainingSource
from pipeline.plan import epoch_order, plan_training
from preprocess.shards import open_split, read_info

LABELS = [["left"]] * 20 + [["right"]] * 3 + [[]]
"""20 videos of one class, 3 of another, and one without a label: N is 24, K is 2."""


def order_of(folder) -> BalancedOrder:
    return balanced_order(open_split(folder, "train"), seed=0)


def make(tmp_path):
    return write_dataset(tmp_path / "d", [20] * 24, labels=LABELS)


def test_an_epoch_has_equally_many_clips_of_each_class(tmp_path):
    folder = make(tmp_path)
    labels = first_labels(open_split(folder, "train"))
    assert labels.tolist() == [0] * 20 + [1] * 3 + [-1]
    for epoch in range(3):
        clips, _ = order_of(folder).visits(epoch, np.arange(24))
        assert Counter(labels[clips].tolist()) == {0: 12, 1: 12}


def test_the_videos_of_a_class_take_turns_over_the_epochs(tmp_path):
    order = order_of(make(tmp_path))
    counts: Counter[int] = Counter()
    # After 5 epochs of 12 draws, the 20 videos have 3 turns each, and the 3 videos have 20 each.
    for epoch in range(5):
        clips, _ = order.visits(epoch, np.arange(24))
        counts.update(clips.tolist())
    assert counts == {**dict.fromkeys(range(20), 3), **dict.fromkeys(range(20, 23), 20)}


def test_a_video_that_is_drawn_again_gets_other_frames_and_crops(tmp_path):
    split = open_split(make(tmp_path), "train")
    config = load(None, ["data.balanced=true", "clip.num_segments=4", "train.batch=4"])
    plan = plan_training(split, config, epoch_order(split, config), 1, np.arange(24))
    pairs = list(zip(plan.clips.tolist(), plan.draws.tolist(), strict=True))
    assert len(set(pairs)) == 24 and min(plan.draws) < 24 <= max(plan.draws)
    again = plan.frames[plan.clips == 21]
    assert len(again) == 4 and len(np.unique(again, axis=0)) > 1


def test_all_ranks_together_see_the_same_clips_as_one(tmp_path):
    folder = make(tmp_path)
    split = open_split(folder, "train")
    config = load(None, ["data.balanced=true", "clip.num_segments=4", "train.batch=8"])
    info = read_info(folder)
    whole = TrainingSource(split, info, config, 0, 1)
    for step in range(whole.num_steps):
        parts = [TrainingSource(split, info, config, rank, 4).step(2, step) for rank in range(4)]
        expected = whole.step(2, step).plan
        for name in ("clips", "draws", "frames", "boxes"):
            found = np.concatenate([getattr(part.plan, name) for part in parts])
            assert np.array_equal(found, getattr(expected, name)), name


def test_without_balance_the_draws_of_a_clip_are_its_row(tmp_path):
    split = open_split(make(tmp_path), "train")
    config = load(None, ["clip.num_segments=4", "train.batch=4"])
    plan = plan_training(split, config, epoch_order(split, config), 1, np.arange(24))
    assert np.array_equal(plan.draws, plan.clips)

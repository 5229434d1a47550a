"""Frames of a clip, compared with the whole table of the reference and with arithmetic."""

import json

import numpy as np

from configs.schema import ClipSettings
from pipeline.frames import evaluation_frames, training_frames, twice_frames


def read_table(shared) -> list[dict]:
    return json.loads((shared / "reference/tables/frame_indices.json").read_text())


# The sampling of the original


def test_reference_frames_equal_the_table(shared):
    checked = 0
    for entry in read_table(shared):
        if "error" in entry:
            continue
        frames = reference_frames(entry)
        assert frames[:: entry["new_length"]].tolist() == entry["indices_1based"], entry
        checked += 1
    assert checked == 246


def reference_frames(entry: dict) -> np.ndarray:
    """Return our frames for an entry, counted from 1, with the numbers that the reference drew."""
    T = entry["T"]
    dense = entry["mode"] == "dense"
    settings = ClipSettings(
        num_segments=T,
        frames_per_segment=entry["new_length"],
        sampling="reference_dense" if dense else "reference",
        stride=entry.get("dense_sample_rate", 8),
    )
    drawn = [(np.atleast_1d(v) + 0.5) / high for _, high, v in entry["draws_low_high_values"]]
    num_frames = np.array([entry["num_frames"]])
    if entry["kind"] == "train":
        draws = np.zeros((1, T))
        for values in drawn:
            draws[0, : len(values)] = values
        return training_frames(num_frames, settings, draws)[0] + 1
    clips = {"val": 1, "test": 10 if dense else entry.get("temporal_clips")}[entry["kind"]]
    draws = np.zeros((1, clips, T))
    for number, values in enumerate(drawn):  # the first of several clips is not drawn
        draws[0, number + (clips > 1), : len(values)] = values
    return evaluation_frames(num_frames, settings, clips, draws).ravel() + 1


def test_the_two_test_clips_of_tsm_equal_its_frames(shared):
    table = json.loads((shared / "reference/more/twice_sample_frames.json").read_text())
    assert len(table) >= 8
    for entry in table:
        settings = ClipSettings(num_segments=entry["T"])
        frames = twice_frames(np.array([entry["num_frames"]]), settings, 2)
        assert (frames + 1).ravel().tolist() == entry["twice_sample"], entry


def test_one_test_clip_of_tsm_has_the_middles_of_the_segments():
    frames = twice_frames(np.array([16, 3]), ClipSettings(num_segments=4), 1)
    assert frames.tolist() == [[[2, 6, 10, 14]], [[0, 1, 1, 2]]]


def test_uniform_middle_frames_equal_the_rgb_rows_of_the_table(shared):
    rows = [
        entry
        for entry in read_table(shared)
        if entry["kind"] == "val" and entry["mode"] == "uniform"
    ]
    for entry in rows:
        L = entry["new_length"]
        settings = ClipSettings(num_segments=entry["T"], frames_per_segment=L)
        frames = evaluation_frames(np.array([entry["num_frames"]]), settings, 1, None)[0, 0]
        assert (frames[::L] + 1).tolist() == entry["indices_1based"]


# Our own sampling


def uniform(T: int, L: int = 1) -> ClipSettings:
    return ClipSettings(num_segments=T, frames_per_segment=L)


def dense(T: int, stride: int) -> ClipSettings:
    return ClipSettings(num_segments=T, sampling="dense", stride=stride)


def test_uniform_training_takes_one_frame_of_each_part_and_can_take_every_frame():
    # The 4 parts of 11 frames are 0-1, 2-4, 5-7 and 8-10.
    draws = np.random.default_rng(0).random((500, 4))
    frames = training_frames(np.full(500, 11), uniform(4), draws)
    parts = [sorted(set(column.tolist())) for column in frames.T]
    assert parts == [[0, 1], [2, 3, 4], [5, 6, 7], [8, 9, 10]]


def test_the_frames_of_a_video_shorter_than_the_clip_are_spread():
    for draws in (np.zeros((1, 8)), np.full((1, 8), 0.99)):
        frames = training_frames(np.array([3]), uniform(8), draws)
        assert frames.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    frames = evaluation_frames(np.array([3]), uniform(8), 2, None)
    assert frames.tolist() == [[[0, 0, 0, 1, 1, 2, 2, 2]] * 2]


def test_a_video_of_one_frame_gives_a_clip():
    for settings in (uniform(3), dense(3, 4), uniform(3, L=2)):
        L = settings.frames_per_segment
        frames = training_frames(np.array([1]), settings, np.full((1, 3), 0.9))
        assert frames.tolist() == [[0] * 3 * L]
        assert evaluation_frames(np.array([1]), settings, 2, None).tolist() == [[[0] * 3 * L] * 2]


def test_uniform_test_clips_lie_at_even_phases_of_each_part():
    # 16 frames have 2 parts of 8 frames. The clips take the phases 1/4 and 3/4 of each part.
    frames = evaluation_frames(np.array([16]), uniform(2), 2, None)
    assert frames.tolist() == [[[2, 10], [6, 14]]]


def test_dense_training_takes_frames_at_a_stride_and_reaches_the_last_start():
    # 3 frames that are 4 apart span 9 of the 10 frames, so they start at 0 or 1.
    frames = training_frames(np.array([10, 10]), dense(3, 4), np.array([[0.49] * 3, [0.5] * 3]))
    assert frames.tolist() == [[0, 4, 8], [1, 5, 9]]


def test_dense_test_clips_are_centered_or_evenly_spaced():
    # A clip spans 9 of the 13 frames, so it starts at 0 to 4.
    assert evaluation_frames(np.array([13]), dense(3, 4), 1, None).tolist() == [[[2, 6, 10]]]
    frames = evaluation_frames(np.array([13]), dense(3, 4), 3, None)
    assert frames.tolist() == [[[0, 4, 8], [2, 6, 10], [4, 8, 12]]]


def test_dense_clips_of_a_short_video_keep_the_order_of_the_frames():
    frames = training_frames(np.array([6]), dense(4, 8), np.full((1, 4), 0.7))
    assert frames.tolist() == [[0, 2, 3, 5]]  # the middles of 4 parts of 1.5 frames each


def test_stacked_frames_stay_inside_the_video():
    # 3 consecutive frames start at 0 to 3 in a video of 6. The middles of 2 parts are 1 and 3.
    # A video of 2 frames repeats its last frame.
    frames = evaluation_frames(np.array([6, 2]), uniform(2, L=3), 1, None)
    assert frames[:, 0].tolist() == [[1, 2, 3, 3, 4, 5], [0, 1, 1, 0, 1, 1]]

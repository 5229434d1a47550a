"""Chooses the frames that make a clip. Pure NumPy, for a batch of videos at once.

T is ``clip.num_segments``, L is ``clip.frames_per_segment``, and K is the number of clips of a
video. The random numbers are an argument, ``draws`` in [0, 1); ``floor(draw * n)`` gives a random
integer below n.

A segment starts at a frame and takes the L consecutive frames from there. A video has
``num_starts`` frames at which L frames can start.
"""

import numpy as np

from configs.schema import ClipSettings

REFERENCE_WINDOW = 64  # frames that a dense test clip of the original spans, at any stride


def training_frames(num_frames: np.ndarray, clip: ClipSettings, draws: np.ndarray) -> np.ndarray:
    """Return the frames of one random clip of each video, shape ``(B, T*L)``.

    Args:
        num_frames: ``(B,)`` number of frames of each video.
        clip: how to sample. ``uniform`` takes a random frame of each of T equal parts; a video
            with fewer frames than parts gives the middle of each part. ``dense`` takes T frames at
            a stride from a random start; a video that is too short for the stride gives the middle
            of each part. ``reference`` and ``reference_dense`` reproduce the original, including
            its defects.
        draws: ``(B, T)`` random numbers in [0, 1).

    Source: segments of Wang et al., ECCV 2016, section 3.1, arXiv:1608.00859.
    """
    T = clip.num_segments
    num_starts = _num_starts(num_frames, clip)
    if clip.sampling == "uniform":
        first = np.arange(T) * num_starts // T
        size = np.arange(1, T + 1) * num_starts // T - first
        random = first + _floor(draws * size)
        starts = np.where(num_starts < T, _middle(num_starts, T, 0.5), random)
    elif clip.sampling == "dense":
        last = np.maximum(_last_start(num_starts, clip), 0)
        starts = _at_stride(_floor(draws[:, :1] * (last + 1)), num_starts, clip)
    elif clip.sampling == "reference":
        starts = _reference_random(num_starts, draws)
    else:
        starts = _reference_dense(num_frames, clip, draws[:, :1])
    return _stacked(starts, num_frames, clip)


def evaluation_frames(
    num_frames: np.ndarray, clip: ClipSettings, num_clips: int, draws: np.ndarray
) -> np.ndarray:
    """Return the frames of K clips of each video, shape ``(B, K, T*L)``.

    ``uniform`` takes frames at K evenly spaced phases of each part; a single clip takes the
    middle. ``dense`` takes K evenly spaced starts; a single clip is centered. Both ignore
    ``draws`` ``(B, K, T)``. ``reference`` draws every clip but the first, and ``reference_dense``
    draws a single clip but none of several.
    """
    T = clip.num_segments
    num_starts = _num_starts(num_frames, clip)
    clips = []
    for number in range(num_clips):
        if clip.sampling == "uniform":
            phase = np.where(num_starts < T, 0.5, (number + 0.5) / num_clips)
            starts = _middle(num_starts, T, phase)
        elif clip.sampling == "dense":
            share = number / (num_clips - 1) if num_clips > 1 else 0.5
            last = np.maximum(_last_start(num_starts, clip), 0)
            starts = _at_stride(_floor(last * share), num_starts, clip)
        elif clip.sampling == "reference":
            center = _reference_center(num_starts, T)
            random = _reference_random(num_starts, draws[:, number])
            starts = center if number == 0 else np.where(num_starts < T, center, random)
        elif num_clips == 1:
            starts = _reference_dense(num_frames, clip, draws[:, 0, :1])
        else:
            starts = _reference_window(num_frames, T, number, num_clips)
        clips.append(_stacked(starts, num_frames, clip))
    return np.stack(clips, axis=1)


def twice_frames(num_frames: np.ndarray, clip: ClipSettings, num_clips: int) -> np.ndarray:
    """Return the frames of TSM's test clips, at most two, shape ``(B, K, T*L)``.

    The first clip has the middle of each of T equal parts, the second has the start of each.
    """
    T = clip.num_segments
    num_starts = _num_starts(num_frames, clip)
    starts = _floor(num_starts / T * np.arange(T))
    clips = [_reference_center(num_starts, T), starts][:num_clips]
    return np.stack([_stacked(frames, num_frames, clip) for frames in clips], axis=1)


def _num_starts(num_frames: np.ndarray, clip: ClipSettings) -> np.ndarray:
    """Return ``(B, 1)``: the number of frames at which L frames can start, at least 1."""
    return np.maximum(np.asarray(num_frames)[:, None] - clip.frames_per_segment + 1, 1)


def _middle(num_starts: np.ndarray, T: int, phase: np.ndarray | float) -> np.ndarray:
    """Return the frame at ``phase`` (0 is the start, 1 the end) of each of T equal parts."""
    return _floor((np.arange(T) + phase) * num_starts / T)


def _last_start(num_starts: np.ndarray, clip: ClipSettings) -> np.ndarray:
    """Return ``(B, 1)``: the last frame from which T segments at the stride fit, or below 0."""
    return num_starts - 1 - (clip.num_segments - 1) * clip.stride


def _at_stride(first: np.ndarray, num_starts: np.ndarray, clip: ClipSettings) -> np.ndarray:
    """Return T frames at the stride from ``first``, or the middles of T parts of a short video."""
    T = clip.num_segments
    at_stride = first + np.arange(T) * clip.stride
    too_short = _last_start(num_starts, clip) < 0
    return np.where(too_short, _middle(num_starts, T, 0.5), at_stride)


def _reference_random(num_starts: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return random frames of T parts of equal size; the original never uses the last few frames.

    A video with fewer frames than parts gives its first frame T times.
    """
    T = draws.shape[1]
    size = num_starts // T
    return np.arange(T) * size + _floor(draws * size)


def _reference_center(num_starts: np.ndarray, T: int) -> np.ndarray:
    """Return the middles of T parts, rounded as the original does.

    Another order of the operations would round some of the frames differently.
    """
    tick = num_starts / T
    return _floor(tick / 2 + tick * np.arange(T))


def _reference_dense(num_frames: np.ndarray, clip: ClipSettings, draws: np.ndarray) -> np.ndarray:
    """Return T frames at a stride from a random start; a short video wraps around to its start."""
    num_frames = np.asarray(num_frames)[:, None]
    span = clip.num_segments * clip.stride
    start = _floor(draws * np.maximum(num_frames - span, 0))
    return (start + np.arange(clip.num_segments) * clip.stride) % num_frames


def _reference_window(num_frames: np.ndarray, T: int, number: int, num_clips: int) -> np.ndarray:
    """Return the frames of test clip ``number``, which span a fixed window at any stride."""
    num_frames = np.asarray(num_frames)[:, None]
    step = np.maximum(num_frames - REFERENCE_WINDOW, 0) / (num_clips - 1)
    start = _floor(number * step)  # rounded as the original does
    return (start + np.arange(T) * (REFERENCE_WINDOW // T)) % num_frames


def _stacked(starts: np.ndarray, num_frames: np.ndarray, clip: ClipSettings) -> np.ndarray:
    """Extend each start to L consecutive frames; past the end the last frame repeats."""
    consecutive = starts[:, :, None] + np.arange(clip.frames_per_segment)
    inside = np.minimum(consecutive, np.asarray(num_frames)[:, None, None] - 1)
    return inside.reshape(len(starts), starts.shape[1] * clip.frames_per_segment)


def _floor(values: np.ndarray) -> np.ndarray:
    return np.floor(values).astype(np.int64)

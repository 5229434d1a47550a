"""Which frames of a video make a clip. Pure NumPy, for a batch of videos at once.

T is ``clip.num_segments``, L ``clip.frames_per_segment``, K the clips of a video. Every random
number is an argument in [0, 1), and a whole number below n is ``floor(draw * n)``.
"""

import numpy as np

from configs.schema import ClipSettings

REFERENCE_WINDOW = 64  # frames that a dense test clip of the original spans, at any stride


def training_frames(num_frames: np.ndarray, clip: ClipSettings, draws: np.ndarray) -> np.ndarray:
    """Return the frames of one random clip of each video, shape ``(B, T*L)``, L neighbours apart.

    Args:
        num_frames: ``(B,)`` frames of each video.
        clip: how to sample. ``uniform`` takes a random frame of each of T equal parts (a video
            with fewer frames than parts: the middle of each), ``dense`` T frames at a stride from
            a random start (a video too short for them: the middle of each part). ``reference``
            and ``reference_dense`` give the frames of the original, its defects included.
        draws: ``(B, T)`` numbers in [0, 1).

    Source: segments of Wang et al., ECCV 2016, section 3.1, arXiv:1608.00859.
    """
    T = clip.num_segments
    places = _places(num_frames, clip)
    if clip.sampling == "uniform":
        first = np.arange(T) * places // T
        size = np.arange(1, T + 1) * places // T - first
        starts = np.where(places < T, _middle(places, T, 0.5), first + _floor(draws * size))
    elif clip.sampling == "dense":
        starts = _at_stride(places, clip, lambda last: _floor(draws[:, :1] * (last + 1)))
    elif clip.sampling == "reference":
        starts = _reference_random(places, draws)
    else:
        starts = _reference_dense(num_frames, clip, draws[:, :1])
    return _stacked(starts, num_frames, clip)


def evaluation_frames(
    num_frames: np.ndarray, clip: ClipSettings, num_clips: int, draws: np.ndarray
) -> np.ndarray:
    """Return the frames of K clips of each video, shape ``(B, K, T*L)``.

    ``uniform`` takes frames at K evenly spaced phases of each part (K = 1: the middle), ``dense``
    K evenly spaced starts (K = 1: centered). Both need no ``draws`` ``(B, K, T)``: with
    ``reference`` clips after the first are drawn, and with ``reference_dense`` a single clip is.
    """
    T = clip.num_segments
    places = _places(num_frames, clip)
    clips = []
    for number in range(num_clips):
        if clip.sampling == "uniform":
            phase = np.where(places < T, 0.5, (number + 0.5) / num_clips)
            starts = _middle(places, T, phase)
        elif clip.sampling == "dense":
            share = number / (num_clips - 1) if num_clips > 1 else 0.5
            starts = _at_stride(places, clip, lambda last, share=share: _floor(last * share))
        elif clip.sampling == "reference":
            center = _reference_center(places, T)
            drawn = _reference_random(places, draws[:, number])
            starts = center if number == 0 else np.where(places < T, center, drawn)
        elif num_clips == 1:
            starts = _reference_dense(num_frames, clip, draws[:, 0, :1])
        else:
            starts = _reference_window(num_frames, T, number, num_clips)
        clips.append(_stacked(starts, num_frames, clip))
    return np.stack(clips, axis=1)


def _places(num_frames: np.ndarray, clip: ClipSettings) -> np.ndarray:
    """Return ``(B, 1)``: at how many frames L neighbours can start, at least at one."""
    return np.maximum(np.asarray(num_frames)[:, None] - clip.frames_per_segment + 1, 1)


def _middle(places: np.ndarray, T: int, phase: np.ndarray | float) -> np.ndarray:
    return _floor((np.arange(T) + phase) * places / T)


def _at_stride(places: np.ndarray, clip: ClipSettings, start) -> np.ndarray:
    T = clip.num_segments
    last = places - 1 - (T - 1) * clip.stride
    at_stride = start(np.maximum(last, 0)) + np.arange(T) * clip.stride
    return np.where(last < 0, _middle(places, T, 0.5), at_stride)


def _reference_random(places: np.ndarray, draws: np.ndarray) -> np.ndarray:
    T = draws.shape[1]
    size = places // T
    return np.arange(T) * size + _floor(draws * size)


def _reference_center(places: np.ndarray, T: int) -> np.ndarray:
    tick = places / T  # rounded as in the original: another order of operations moves a frame
    return _floor(tick / 2 + tick * np.arange(T))


def _reference_dense(num_frames: np.ndarray, clip: ClipSettings, draws: np.ndarray) -> np.ndarray:
    num_frames = np.asarray(num_frames)[:, None]
    span = clip.num_segments * clip.stride
    start = _floor(draws * np.maximum(num_frames - span, 0))
    return (start + np.arange(clip.num_segments) * clip.stride) % num_frames


def _reference_window(num_frames: np.ndarray, T: int, number: int, num_clips: int) -> np.ndarray:
    num_frames = np.asarray(num_frames)[:, None]
    step = np.maximum(num_frames - REFERENCE_WINDOW, 0) / (num_clips - 1)
    start = _floor(number * step)  # rounded as in the original
    return (start + np.arange(T) * (REFERENCE_WINDOW // T)) % num_frames


def _stacked(starts: np.ndarray, num_frames: np.ndarray, clip: ClipSettings) -> np.ndarray:
    neighbours = starts[:, :, None] + np.arange(clip.frames_per_segment)
    inside = np.minimum(neighbours, np.asarray(num_frames)[:, None, None] - 1)
    return inside.reshape(len(starts), starts.shape[1] * clip.frames_per_segment)


def _floor(values: np.ndarray) -> np.ndarray:
    return np.floor(values).astype(np.int64)

"""Generates motions of graded difficulty for a study: each video names what makes it hard.

The motions are those of `preprocess.motions`, and videos come in pairs of a clip and its reverse.
"""

from functools import partial
from pathlib import Path

import numpy as np

from preprocess.motions import PAIRS, REVERSED, Motion, draw_motion, render, write_mp4, write_pairs
from preprocess.workers import Note

DIFFICULTIES = ("plain", "speed", "distractors", "occlusion", "shake", "few-frames", "all")
"""What makes a video hard; `all` combines the five kinds."""
NUM_DISTRACTORS = 3
SHAKE = 0.08
"""Largest shift of a shaken frame, as a share of its width."""
FEW_FRAMES = 5
COLUMNS = ("path", "labels", "split", "group", "difficulty")


def make_graded_motions(
    folder: str | Path, train: int, val: int, size: int = 64, seed: int = 0
) -> Path:
    """Write mp4 files of `size` x `size` pixels and labels.csv; return the path of labels.csv.

    The difficulties take turns, so each has the same share of both splits. A clip and its reverse
    form a group, because they have the same frames.

    Args:
        folder: folder of the videos, which becomes `shard.source`.
        train: number of videos of split train.
        val: number of videos of split val.
        size: width and height in pixels, an even number.
        seed: seed of all random choices.

    Raises:
        ValueError: `size` is out of range.
        WriteError: labels.csv cannot be written.
    """
    if size < 16 or size % 2:
        raise ValueError(f"size must be an even number of at least 16 pixels, not {size}")
    counts = {"train": train, "val": val}
    write_pair = partial(_write_pair, Path(folder), counts, size, seed)
    return write_pairs(Path(folder), counts, write_pair, COLUMNS)


def graded_frames(name: str, difficulty: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the frames of a motion of class `name`, uint8 `(T, size, size, 3)`."""
    motion = draw_motion([name], rng)
    if difficulty in ("speed", "all"):
        motion = _uneven(motion, rng)
    frames = render(motion, size, rng)
    if difficulty in ("distractors", "all"):
        _add_distractors(frames, rng)
    if difficulty in ("occlusion", "all"):
        _add_bars(frames, rng)
    if difficulty in ("shake", "all"):
        frames = _shaken(frames, rng)
    if difficulty in ("few-frames", "all"):
        frames = frames[np.linspace(0, len(frames) - 1, FEW_FRAMES).round().astype(int)]
    return frames


def _uneven(motion: Motion, rng: np.random.Generator) -> Motion:
    """Return the motion at an uneven speed: its path is the same, its steps are of random size."""
    num_frames = len(motion.x)
    steps = rng.gamma(0.5, size=num_frames - 1)
    places = np.append(0.0, np.cumsum(steps)) / steps.sum() * (num_frames - 1)
    even = np.arange(num_frames)
    fields = {name: np.interp(places, even, values) for name, values in vars(motion).items()}
    return Motion(**fields)


def _add_distractors(frames: np.ndarray, rng: np.random.Generator) -> None:
    """Draw small bright squares that move in directions of their own."""
    num_frames, size = frames.shape[:2]
    side = max(2, size // 10)
    for _ in range(NUM_DISTRACTORS):
        start, end = rng.uniform(0, size - side, (2, 2))
        color = rng.integers(150, 256, 3)
        for place, frame in zip(np.linspace(0, 1, num_frames), frames, strict=True):
            top, left = (start + place * (end - start)).astype(int)
            frame[top : top + side, left : left + side] = color


def _add_bars(frames: np.ndarray, rng: np.random.Generator) -> None:
    """Hide a third of the frame behind a dark bar that stands still."""
    size = frames.shape[1]
    width = size // 3
    first = int(rng.integers(size // 6, size - width - size // 6 + 1))
    bar = slice(first, first + width)
    if rng.random() < 0.5:
        frames[:, bar] = 20
    else:
        frames[:, :, bar] = 20


def _shaken(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the frames shifted by random distances, as by a camera that shakes."""
    reach = max(1, round(SHAKE * frames.shape[1]))
    shifts = rng.integers(-reach, reach + 1, (len(frames), 2))
    padded = np.pad(frames, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    size = frames.shape[1]
    return np.stack(
        [
            frame[reach + y : reach + y + size, reach + x : reach + x + size]
            for frame, (y, x) in zip(padded, shifts.tolist(), strict=True)
        ]
    )


def _write_pair(
    folder: Path, counts: dict[str, int], size: int, seed: int, pair: tuple[str, int], note: Note
) -> list[tuple[str, ...]]:
    """Write a clip and its reverse; return their rows of labels.csv."""
    split, first = pair
    rng = np.random.default_rng([seed, list(counts).index(split), first])
    number = first // 2
    # Each difficulty has every axis of motion: the difficulty changes first, then the axis.
    difficulty = DIFFICULTIES[number % len(DIFFICULTIES)]
    name = PAIRS[number // len(DIFFICULTIES) % len(PAIRS)][1]
    frames = graded_frames(name, difficulty, size, rng)
    rows: list[tuple[str, ...]] = []
    for index in range(first, min(first + 2, counts[split])):
        path = f"{split}/{index:05d}.mp4"
        write_mp4(folder / path, frames if index == first else frames[::-1])
        label = name if index == first else REVERSED[name]
        rows.append((path, label, split, f"{split}-{number:05d}", difficulty))
    return rows

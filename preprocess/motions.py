"""The demo's videos: a bright textured shape on dark textured ground, its motion is the class.

Videos come in pairs, a clip and its reverse, which have opposite classes and the same frames: what
ignores the order of frames is right for at most one of the two.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

import av
import numpy as np

from preprocess.workers import num_cpus, run_tasks

PAIRS = (
    ("left", "right"),
    ("up", "down"),
    ("shrink", "grow"),
    ("counter-clockwise", "clockwise"),
)
"""Classes by axis: each is the other played backwards."""
REVERSED = {name: other for pair in PAIRS for name, other in (pair, pair[::-1])}
NUM_FRAMES = (17, 23)  # never a multiple of 8: then the middles of 4, 8 or 16 parts of a clip and
# of its reverse are the same frames (segments of an even cut round down)
FPS = 12


@dataclass(frozen=True)
class Motion:
    """Where the shape is in each frame, arrays of shape `(T,)`."""

    x: np.ndarray
    """Center, as a share of the width."""
    y: np.ndarray
    radius: np.ndarray
    """As a share of the width."""
    angle: np.ndarray
    """Radians, clockwise."""


def make_motions(
    folder: str | Path, train: int, val: int, size: int = 64, seed: int = 0, motions: int = 1
) -> Path:
    """Write mp4 files of `size` x `size` pixels and labels.csv; return the path of the latter.

    Args:
        folder: where they go; it becomes `shard.source`.
        train: videos of split train.
        val: videos of split val.
        size: width and height in pixels, even.
        seed: seed of everything random.
        motions: motions of a shape at a time, on as many axes; each is a label.
    """
    if size < 16 or size % 2:
        raise ValueError(f"size {size} is no even number of at least 16 pixels")
    if not 1 <= motions <= len(PAIRS):
        raise ValueError(f"a shape has 1 to {len(PAIRS)} motions at a time, not {motions}")
    folder = Path(folder)
    counts = {"train": train, "val": val}
    for split in counts:
        (folder / split).mkdir(parents=True, exist_ok=True)
    pairs = [(split, first) for split, count in counts.items() for first in range(0, count, 2)]
    rows, work = [], partial(_write_pair, folder, counts, size, seed, motions)
    for made in run_tasks(work, pairs, num_cpus()):
        rows += made
    path = folder / "labels.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [("path", "labels", "split"), *sorted(rows)]
        )
    return path


def draw_motion(classes: Sequence[str], rng: np.random.Generator) -> Motion:
    """Return a random motion that belongs to all of `classes`, which are of different axes."""
    num_frames = int(rng.integers(NUM_FRAMES[0], NUM_FRAMES[1] + 1))
    radius = rng.uniform(0.2, 0.3)
    travel = rng.uniform(0.5, 0.7)
    center = rng.uniform(0.44, 0.56, 2)
    x, y = np.full(num_frames, center[0]), np.full(num_frames, center[1])
    radius, angle = np.full(num_frames, radius), np.full(num_frames, rng.uniform(0, 2 * np.pi))
    for name in classes:
        axis = next(axis for axis, pair in enumerate(PAIRS) if name in pair)
        time = np.linspace(-0.5, 0.5, num_frames) * (1 if name == PAIRS[axis][1] else -1)
        if axis == 0:
            x = x + travel * time
        elif axis == 1:
            y = y + travel * time
        elif axis == 2:
            radius = radius * rng.uniform(2.5, 3.5) ** time
        else:
            angle = angle + rng.uniform(1.5, 2.5) * time
    return Motion(x, y, radius, angle)


def render(motion: Motion, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the frames of a motion, uint8 `(T, size, size, 3)`: all but the motion is random."""
    pixel = (np.arange(size, dtype=np.float32) + 0.5) / size
    grid_y, grid_x = np.meshgrid(pixel, pixel, indexing="ij")
    ground = _texture(rng, (0.1, 0.4), 0.1, 9)
    surface = _texture(rng, (0.6, 0.95), 0.25, 5)
    x, y, radius, cos, sin, time = (
        values.astype(np.float32)[:, None, None]
        for values in (
            motion.x,
            motion.y,
            motion.radius,
            np.cos(motion.angle),
            np.sin(motion.angle),
            np.linspace(-0.05, 0.05, len(motion.x)),
        )
    )
    drift_x, drift_y = rng.uniform(-1, 1, 2).astype(np.float32)
    frames = _sample(ground, grid_x + drift_x * time, grid_y + drift_y * time)
    dx, dy = (grid_x - x) / radius, (grid_y - y) / radius
    u, v = cos * dx + sin * dy, cos * dy - sin * dx  # the y axis points down: + is clockwise
    shape = _sample(surface, u / 3 + 0.5, v / 3 + 0.5)
    inside = _outline(rng, u, v) - np.hypot(u, v)
    mask = np.clip(inside * radius * size + 0.5, 0, 1)[..., None]
    frames = frames + mask * (shape - frames)
    frames *= 255
    frames += rng.integers(-6, 7, frames.shape, dtype=np.int8)
    return frames.clip(0, 255, out=frames).astype(np.uint8)


def write_mp4(path: Path, frames: np.ndarray) -> None:
    """Write frames `(T, H, W, 3)` as H.264; every frame stands for itself.

    Frames that lean on others would lose quality with time, and tell their place in the clip.
    """
    options = {"qp": "20", "preset": "ultrafast", "g": "1"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_pair(
    folder: Path,
    counts: dict[str, int],
    size: int,
    seed: int,
    motions: int,
    pair: tuple[str, int],
    note: Any,
) -> list[tuple[str, str, str]]:
    """Write a clip and its reverse; return their rows of the labels CSV."""
    split, first = pair
    rng = np.random.default_rng([seed, list(counts).index(split), first])
    mixes = _mixes(motions)
    classes = mixes[first // 2 % len(mixes)]
    frames = render(draw_motion(classes, rng), size, rng)
    rows = []
    for index in range(first, min(first + 2, counts[split])):
        name = f"{split}/{index:05d}.mp4"
        write_mp4(folder / name, frames if index == first else frames[::-1])
        labels = classes if index == first else [REVERSED[label] for label in classes]
        rows.append((name, ";".join(labels), split))
    return rows


def _mixes(motions: int) -> list[tuple[str, ...]]:
    """Return all mixes of classes of so many axes, but of a mix and its reverse only one."""
    return [
        (first[1], *rest)
        for first, *others in combinations(PAIRS, motions)
        for rest in product(*others)
    ]


def _texture(
    rng: np.random.Generator, brightness: tuple[float, float], contrast: float, cells: int
) -> np.ndarray:
    """Return random values around a random color on a grid, `(cells, cells, 3)`."""
    color = rng.uniform(*brightness, 3)
    light = rng.uniform(-contrast, contrast, (cells, cells, 1))
    return (color + light + 0.4 * rng.uniform(-contrast, contrast, (cells, cells, 3))).astype(
        np.float32
    )


def _sample(texture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the texture between its grid points, at positions from 0 to 1 and mirrored beyond."""
    cells, values = len(texture), texture.reshape(-1, 3)
    x, y = ((cells - 1) * (1 - np.abs(place % 2 - 1)) for place in (x, y))
    left, top = (np.minimum(place.astype(np.int32), cells - 2) for place in (x, y))
    right, down = (x - left)[..., None], (y - top)[..., None]
    corner = top * cells + left
    upper = values.take(corner, 0) * (1 - right) + values.take(corner + 1, 0) * right
    corner += cells
    lower = values.take(corner, 0) * (1 - right) + values.take(corner + 1, 0) * right
    return upper * (1 - down) + lower * down


def _outline(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return how far the shape reaches in the direction of (u, v): two or three lobes.

    More would look the same after a small turn, and hide which way it went.
    """
    points, depth = rng.integers(2, 4), rng.uniform(0.25, 0.4)
    return 1 + np.float32(depth) * np.cos(np.float32(points) * np.arctan2(v, u))

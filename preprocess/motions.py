"""Generates the demo's videos: a bright shape on dark ground, whose motion is the class.

Videos come in pairs: a clip and its reverse. They have the same frames and opposite classes, so a
model that ignores the order of frames is right for at most one of the two.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from pathlib import Path

import av
import numpy as np

from configs.progress import show_progress
from preprocess.csv_files import write_csv
from preprocess.workers import Note, num_cpus, run_tasks

PAIRS = (
    ("left", "right"),
    ("up", "down"),
    ("shrink", "grow"),
    ("counter-clockwise", "clockwise"),
)
"""The two classes of each axis; each is the other one played backwards."""
REVERSED = {name: other for pair in PAIRS for name, other in (pair, pair[::-1])}
"""The opposite of each class."""
NUM_FRAMES = (17, 23)
"""Smallest and largest number of frames. The range has no multiple of 8, so the middle of each of
4, 8 or 16 parts of a clip lies inside a frame and never between two. A clip and its reverse then
have the same middle frames."""
FPS = 12
WritePair = Callable[[tuple[str, int], Note], list[tuple[str, ...]]]
"""Writes the pair of videos whose first one is (split, number); returns rows of labels.csv."""


@dataclass(frozen=True)
class Motion:
    """Where the shape is in each frame; each field has shape `(T,)`."""

    x: np.ndarray
    """Center, as a share of the width."""
    y: np.ndarray
    """Center, as a share of the height."""
    radius: np.ndarray
    """Radius, as a share of the width."""
    angle: np.ndarray
    """Angle in radians, clockwise."""


def make_motions(
    folder: str | Path, train: int, val: int, size: int = 64, seed: int = 0, motions: int = 1
) -> Path:
    """Write mp4 files of `size` x `size` pixels and labels.csv; return the path of labels.csv.

    Args:
        folder: folder of the videos, which becomes `shard.source`.
        train: number of videos of split train.
        val: number of videos of split val.
        size: width and height in pixels, an even number.
        seed: seed of all random choices.
        motions: on how many axes a shape moves at once; each motion is a label.

    Raises:
        ValueError: `size` or `motions` is out of range.
        WriteError: labels.csv cannot be written.
    """
    if size < 16 or size % 2:
        raise ValueError(f"size must be an even number of at least 16 pixels, not {size}")
    if not 1 <= motions <= len(PAIRS):
        raise ValueError(f"motions must be a number from 1 to {len(PAIRS)}, not {motions}")
    counts = {"train": train, "val": val}
    write_pair = partial(_write_pair, Path(folder), counts, size, seed, motions)
    return write_pairs(Path(folder), counts, write_pair, ("path", "labels", "split"))


def write_pairs(
    folder: Path, counts: Mapping[str, int], write_pair: WritePair, columns: Sequence[str]
) -> Path:
    """Write all pairs of a clip and its reverse in processes; return the path of labels.csv.

    Args:
        folder: folder of the videos.
        counts: number of videos of each split.
        write_pair: writes one pair.
        columns: the first row of labels.csv.
    """
    for split in counts:
        (folder / split).mkdir(parents=True, exist_ok=True)
    pairs = [(split, first) for split, count in counts.items() for first in range(0, count, 2)]
    written = show_progress(run_tasks(write_pair, pairs, num_cpus()), len(pairs), "pairs of videos")
    rows = [row for pair in written for row in pair]
    path = folder / "labels.csv"
    write_csv(path, [tuple(columns), *sorted(rows)])
    return path


def draw_motion(classes: Sequence[str], rng: np.random.Generator) -> Motion:
    """Return a random motion that belongs to all of `classes`, each of another axis."""
    num_frames = int(rng.integers(NUM_FRAMES[0], NUM_FRAMES[1] + 1))
    # Draw where the shape is in the middle of the clip.
    middle_radius = rng.uniform(0.2, 0.3)
    travel = rng.uniform(0.5, 0.7)
    center = rng.uniform(0.44, 0.56, 2)
    middle_angle = rng.uniform(0, 2 * np.pi)
    x = np.full(num_frames, center[0])
    y = np.full(num_frames, center[1])
    radius = np.full(num_frames, middle_radius)
    angle = np.full(num_frames, middle_angle)
    # Move it along the axis of each class. The second class of a pair moves in the positive
    # direction, and the first class is the same motion backwards in time.
    for name in classes:
        axis = next(axis for axis, pair in enumerate(PAIRS) if name in pair)
        direction = 1 if name == PAIRS[axis][1] else -1
        time = np.linspace(-0.5, 0.5, num_frames) * direction
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
    """Return the frames of a motion, uint8 `(T, size, size, 3)`; colors and outline are random."""
    # Centers of the pixels, `(size, size)`, as shares of the width.
    pixel = (np.arange(size, dtype=np.float32) + 0.5) / size
    grid_y, grid_x = np.meshgrid(pixel, pixel, indexing="ij")
    # The ground drifts slowly, so that pixels of the ground change too.
    ground = _texture(rng, (0.1, 0.4), 0.1, 9)
    surface = _texture(rng, (0.6, 0.95), 0.25, 5)
    time = _per_frame(np.linspace(-0.05, 0.05, len(motion.x)))
    drift_x, drift_y = rng.uniform(-1, 1, 2).astype(np.float32)
    frames = _sample(ground, grid_x + drift_x * time, grid_y + drift_y * time)
    # Coordinates (u, v) of each pixel in the shape, `(T, size, size)`: relative to its center, in
    # radii, turned by its angle. The y axis points down, so a positive angle is clockwise.
    radius = _per_frame(motion.radius)
    cos = _per_frame(np.cos(motion.angle))
    sin = _per_frame(np.sin(motion.angle))
    dx = (grid_x - _per_frame(motion.x)) / radius
    dy = (grid_y - _per_frame(motion.y)) / radius
    u = cos * dx + sin * dy
    v = cos * dy - sin * dx
    # Draw the shape over the ground; the mask falls from 1 to 0 within a pixel of its outline.
    shape = _sample(surface, u / 3 + 0.5, v / 3 + 0.5)
    inside = _outline(rng, u, v) - np.hypot(u, v)
    mask = np.clip(inside * radius * size + 0.5, 0, 1)[..., None]
    frames = frames + mask * (shape - frames)
    # Scale to 0 to 255 and add noise.
    frames *= 255
    frames += rng.integers(-6, 7, frames.shape, dtype=np.int8)
    return frames.clip(0, 255, out=frames).astype(np.uint8)


def write_mp4(path: Path, frames: np.ndarray) -> None:
    """Write frames `(T, H, W, 3)` as H.264, with every frame a key frame.

    Frames that are predicted from others would lose quality with time, which would tell a model
    their position in the clip.
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
    note: Note,
) -> list[tuple[str, ...]]:
    """Write a clip and its reverse; return their rows of labels.csv."""
    split, first = pair
    rng = np.random.default_rng([seed, list(counts).index(split), first])
    mixes = _mixes(motions)
    classes = mixes[first // 2 % len(mixes)]
    frames = render(draw_motion(classes, rng), size, rng)
    rows: list[tuple[str, ...]] = []
    for index in range(first, min(first + 2, counts[split])):
        name = f"{split}/{index:05d}.mp4"
        write_mp4(folder / name, frames if index == first else frames[::-1])
        labels = classes if index == first else [REVERSED[label] for label in classes]
        rows.append((name, ";".join(labels), split))
    return rows


def _mixes(motions: int) -> list[tuple[str, ...]]:
    """Return all mixes of classes of `motions` axes, but only one of each mix and its reverse."""
    return [
        (first[1], *rest)
        for first, *others in combinations(PAIRS, motions)
        for rest in product(*others)
    ]


def _per_frame(values: np.ndarray) -> np.ndarray:
    """Return float32 values `(T, 1, 1)`, which broadcast over the pixels of each frame."""
    return values.astype(np.float32)[:, None, None]


def _texture(
    rng: np.random.Generator, brightness: tuple[float, float], contrast: float, cells: int
) -> np.ndarray:
    """Return random values around a random color on a grid, `(cells, cells, 3)`."""
    color = rng.uniform(*brightness, 3)
    light = rng.uniform(-contrast, contrast, (cells, cells, 1))
    tint = 0.4 * rng.uniform(-contrast, contrast, (cells, cells, 3))
    return (color + light + tint).astype(np.float32)


def _sample(texture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the texture at positions from 0 to 1, linear between grid points, mirrored beyond."""
    cells = len(texture)
    values = texture.reshape(-1, 3)
    # Positions in cells, and the grid point above and to the left of each.
    x, y = ((cells - 1) * (1 - np.abs(position % 2 - 1)) for position in (x, y))
    left, top = (np.minimum(position.astype(np.int32), cells - 2) for position in (x, y))
    right_share = (x - left)[..., None]
    lower_share = (y - top)[..., None]
    # Interpolate along x in the row above and the row below, then along y between the two.
    corner = top * cells + left
    upper = values.take(corner, 0) * (1 - right_share) + values.take(corner + 1, 0) * right_share
    corner += cells
    lower = values.take(corner, 0) * (1 - right_share) + values.take(corner + 1, 0) * right_share
    return upper * (1 - lower_share) + lower * lower_share


def _outline(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return how far the shape reaches in the direction of (u, v); it has two or three lobes.

    With more lobes, the shape would look the same after a small turn, which would hide its
    direction.
    """
    lobes = rng.integers(2, 4)
    depth = rng.uniform(0.25, 0.4)
    return 1 + np.float32(depth) * np.cos(np.float32(lobes) * np.arctan2(v, u))

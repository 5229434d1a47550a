"""A page that shows clips of each class of a dataset, and what augmentation makes of them.

B clips, T frames of a clip, S side of the crop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from configs.files import write_text
from configs.load import ConfigError
from configs.progress import show_progress
from configs.schema import Config
from pipeline.cutting import cut_training
from pipeline.plan import plan_clips
from pipeline.store import FrameStore
from preprocess.shards import DatasetInfo, Split, open_split, read_info
from tin.models.clip_input import to_pixels
from tin.reports.strips import strip
from tin.training.augment import recolored

TEMPLATES = Path(__file__).parent / "templates"
MAX_CLASSES = 60
"""Classes on a page; the others are counted."""
NUM_VIDEOS = 2
"""Videos of each class."""
NUM_EPOCHS = 2
"""Training clips of each video."""
MAX_FRAMES = 8
"""Frames of a strip."""
HEIGHT = 80
"""Height of a strip, in pixels."""


@dataclass(frozen=True)
class ShownVideo:
    """A video on the page; the strips are pictures as data URIs."""

    key: str
    facts: str
    stored: str
    """Frames as they are stored, evenly spaced."""
    trained: list[str]
    """Clips of the first epochs as training sees them."""


@dataclass(frozen=True)
class ShownClass:
    """A class on the page."""

    name: str
    counts: str
    videos: list[ShownVideo]


def write_dataset_page(folder: Path, config: Config, out: Path) -> None:
    """Write the page of a dataset: videos of `data.train_split`, two of each class.

    Args:
        folder: folder of the dataset.
        config: how clips are sampled and changed.
        out: the page, an HTML file that loads nothing else.

    Raises:
        ConfigError: the dataset has no such split, or it is one of optical flow.
        ShardError: the dataset cannot be read.
    """
    info = read_info(folder)
    if info.modality != "rgb":
        raise ConfigError(
            f"{folder} is a dataset of {info.modality}; `tin data show` shows datasets of rgb"
        )
    split = open_split(folder, config.data.train_split)
    classes = _classes(folder, info, split, config)
    page = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, autoescape=True
    ).get_template("dataset.html.j2")
    text = page.render(
        info=info,
        split=split.name,
        recipe=config.recipe or "default settings",
        changes=_changes(config),
        classes=classes,
        left_out=len(info.classes) - len(classes),
        epochs=NUM_EPOCHS,
    )
    write_text(out, text)


def _classes(folder: Path, info: DatasetInfo, split: Split, config: Config) -> list[ShownClass]:
    """Return the classes of the page, with the strips of their videos."""
    counts = {name: _counts(open_split(folder, name), info) for name in info.splits}
    keys = split.keys()
    store = FrameStore(split, readers=1)
    names = info.classes[:MAX_CLASSES]
    classes = []
    try:
        for label, name in show_progress(enumerate(names), len(names), "classes"):
            rows = _videos_of(split, label)[:NUM_VIDEOS]
            found = [f"{part}: {counts[part][label]}" for part in counts]
            videos = [_shown(split, store, config, row, keys[row]) for row in rows.tolist()]
            classes.append(ShownClass(name, ", ".join(found), videos))
    finally:
        store.close()
    return classes


def training_clips(
    split: Split, store: FrameStore, config: Config, rows: Sequence[int], epoch: int
) -> np.ndarray:
    """Return what training sees of videos in an epoch, uint8 RGB ``(B, T, S, S, 3)``.

    Mixup and cutmix are left out. Videos without a readable frame are left out as well.
    """
    clips = np.array(rows)
    plan = plan_clips(split, config, epoch, clips, clips, np.arange(len(clips)))
    S = config.clip.crop
    pictures = []
    used = []
    for index, row in enumerate(clips.tolist()):
        read = store.read(row, plan.frames[index].tolist())
        if not read.jpegs:
            continue
        x, y, width, height = plan.boxes[index]
        arguments = {
            "corner": np.array([y, x]),
            "size": np.array([height, width]),
            "flip": plan.flips[index],
        }
        images = np.stack([simplejpeg.decode_jpeg(bytes(jpeg)) for jpeg in read.jpegs])
        pictures += cut_training(images, arguments, S)
        used.append(index)
    if not used:
        return np.zeros((0, 0, S, S, 3), np.uint8)
    return _recolored(np.stack(pictures), plan.draws[used], config, epoch)


def _recolored(pictures: np.ndarray, draws: np.ndarray, config: Config, epoch: int) -> np.ndarray:
    """Return uint8 clips ``(B, T, S, S, 3)`` with the colors that training gives them."""
    # Training sees L frames a segment; here, each frame is a segment of its own.
    pixels = to_pixels(torch.from_numpy(pictures).unsqueeze(2))
    pixels = recolored(pixels, torch.from_numpy(draws), config, epoch)[:, :, 0]
    return (pixels.clamp(0, 1) * 255).round().byte().movedim(2, -1).numpy()


def _shown(split: Split, store: FrameStore, config: Config, row: int, key: str) -> ShownVideo:
    """Return the strips of a video."""
    video = split.videos[row]
    num_frames = int(video["num_frames"])
    count = min(MAX_FRAMES, num_frames)
    read = store.read(row, ((2 * np.arange(count) + 1) * num_frames // (2 * count)).tolist())
    stored = strip([_decoded(jpeg) for jpeg in read.jpegs], HEIGHT) if read.jpegs else ""
    trained = []
    for epoch in range(NUM_EPOCHS):
        for clip in training_clips(split, store, config, [row], epoch):
            places = np.linspace(0, len(clip) - 1, min(MAX_FRAMES, len(clip))).round().astype(int)
            trained.append(strip([Image.fromarray(clip[place]) for place in places], HEIGHT))
    facts = f"{num_frames} frames of {video['width']}x{video['height']} pixels"
    return ShownVideo(key, facts, stored, trained)


def _decoded(jpeg: bytes | np.ndarray) -> Image.Image:
    return Image.fromarray(simplejpeg.decode_jpeg(bytes(jpeg)))


def _videos_of(split: Split, label: int) -> np.ndarray:
    """Return the videos that have a label, in order."""
    counts = np.diff(split.videos["first_label"], append=len(split.labels))
    owners = np.repeat(np.arange(split.num_videos), counts)
    return owners[split.labels == label]


def _counts(split: Split, info: DatasetInfo) -> list[int]:
    return np.bincount(split.labels, minlength=len(info.classes)).tolist()


def _changes(config: Config) -> list[str]:
    """Return what training changes, a sentence each."""
    settings = config.augment
    clip = config.clip
    scales = ", ".join(f"{scale:g}" for scale in settings.scales)
    found = [
        f"{clip.num_segments} frames, sampling {clip.sampling}, crop of {clip.crop} pixels",
        f"crops of {scales} of the short side (augment.scales)",
    ]
    if settings.flip != "none":
        labels = ", with left and right classes exchanged" if settings.flip == "labels" else ""
        found.append(f"half of the clips are mirrored{labels} (augment.flip={settings.flip})")
    if settings.color_jitter:
        found.append(f"colors change (augment.color_jitter={settings.color_jitter:g})")
    if settings.randaugment_ops:
        found.append(f"RandAugment (augment.randaugment_ops={settings.randaugment_ops})")
    if settings.mixup or settings.cutmix:
        found.append("mixup and cutmix mix pairs of clips, which the page does not show")
    return found

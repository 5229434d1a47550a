"""Lists of videos: from files, folders, and text or CSV files that name them."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.load import ConfigError
from configs.small_files import DamagedFileError, named, read_bytes
from preprocess.annotations.class_folders import VIDEO_SUFFIXES
from preprocess.annotations.label_file import MAX_LABELS_BYTES
from preprocess.frame_folders import list_frames

MAX_LISTED = 5
"""Most sources that an error message lists."""


@dataclass(frozen=True)
class ListedVideo:
    """A video that a source stands for."""

    key: str
    path: Path
    labels: list[str]
    """Names of its classes; empty if they are unknown."""


def list_videos(sources: Sequence[Path]) -> list[ListedVideo]:
    """Return the videos of files, folders and lists, in their order.

    Raises:
        ConfigError: a source has no videos, or a video is named twice.
    """
    listed = [video for source in sources for video in _listed(source)]
    for key, count in Counter(video.key for video in listed).items():
        if count > 1:
            where = ", ".join(map(str, sources[:MAX_LISTED]))
            raise ConfigError(f"{where}: {key} is named {count} times; name each video once")
    return listed


def _listed(source: Path) -> list[ListedVideo]:
    """Return the videos that a source stands for: a file, a folder, or a list of videos."""
    if source.suffix.lower() == ".txt" and source.is_file():
        lines = _text(source).splitlines()
        return [
            ListedVideo(line, source.parent / line, []) for line in map(str.strip, lines) if line
        ]
    if source.suffix.lower() == ".csv" and source.is_file():
        return _listed_in_csv(source)
    if source.is_dir() and not list_frames(source):
        found = sorted(path for path in source.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
        if not found:
            raise ConfigError(f"{source} has no video files and no frames")
        return [ListedVideo(str(path.relative_to(source)), path, []) for path in found]
    # A missing file is listed too, and then named with the bad videos.
    return [ListedVideo(str(source), source, [])]


def _listed_in_csv(source: Path) -> list[ListedVideo]:
    """Return the videos of a CSV with the columns path and, if known, labels and key."""
    reader = csv.DictReader(io.StringIO(_text(source), newline=""))
    try:
        columns = reader.fieldnames or ()
        rows = list(reader)
    except csv.Error as error:
        raise ConfigError(f"{source}, line {reader.line_num}: {error}") from None
    if "path" not in columns:
        raise ConfigError(f"{source}: expected a column `path`, found {', '.join(columns)}")
    if not all(row["path"] for row in rows):
        raise ConfigError(f"{source}: a row has no path")
    return [
        ListedVideo(
            row.get("key") or row["path"],
            source.parent / row["path"],
            [label for label in (row.get("labels") or "").split(";") if label],
        )
        for row in rows
    ]


def _text(source: Path) -> str:
    try:
        return read_bytes(source, MAX_LABELS_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError, DamagedFileError) as error:
        raise ConfigError(named(source, error)) from None

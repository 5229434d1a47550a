"""Single shards that tests write from videos of their own."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from configs.files import atomic_file
from preprocess.tars import VideoRecord, append_video, end_shard


def record(key: str, labels: tuple[str, ...] = ("left",)) -> VideoRecord:
    """Return the record of a video whose frames have 16x16 pixels."""
    return VideoRecord(
        key=key,
        labels=labels,
        width=16,
        height=16,
        source=f"a/{key}.mp4",
        source_width=32,
        source_height=32,
        source_frames=7,
        fps=25.0,
        seconds=0.28,
        warning="",
    )


def write_shard(path: Path, videos: Iterable[tuple[VideoRecord, Sequence[bytes]]]) -> None:
    """Write a shard of records with their JPEG frames."""
    with atomic_file(path) as file:
        for description, jpegs in videos:
            append_video(file, description, jpegs)
        end_shard(file)

"""Shards that tests write video by video."""

from preprocess.tars import VideoRecord, append_video, end_shard, replacing


def record(key: str, labels=("left",)) -> VideoRecord:
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


def write_shard(path, videos) -> None:
    with replacing(path) as file:
        for about, frames in videos:
            append_video(file, about, frames)
        end_shard(file)

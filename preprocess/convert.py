"""Converts videos to shards in parallel, resumes after a kill, and merges the parts."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from configs.files import atomic_file, remove_leftovers
from configs.load import ConfigError
from configs.progress import progress_text
from configs.schema import Config, ShardSettings
from preprocess.annotations.labels import Video
from preprocess.annotations.read import read_annotations
from preprocess.decode import BadVideoError
from preprocess.flow import compute_flow, read_flow_folder
from preprocess.frame_folders import encode_folder
from preprocess.quarantine import (
    MISSING,
    QuarantinedVideo,
    read_shard_list,
    write_dataset_list,
    write_shard_list,
)
from preprocess.shard_plan import (
    ShardTask,
    list_tasks,
    load_or_create_plan,
    num_shards,
    read_plan,
)
from preprocess.shard_rows import read_rows
from preprocess.shards import (
    DatasetInfo,
    ShardPlan,
    ShardRows,
    shard_name,
    write_info,
    write_split,
)
from preprocess.tars import ADVICE, ShardError, VideoRecord, append_video, end_shard
from preprocess.videos import MAX_VIDEO_BYTES, TOO_LARGE, EncodedVideo, encode_video
from preprocess.workers import CrashError, Note, num_cpus, run_tasks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardResult:
    """How many videos of a dataset, or of one part of it, were stored."""

    num_videos: int
    """Videos that were stored."""
    num_quarantined: int
    """Videos that could not be stored."""
    num_missing: int = 0
    """Videos of Kinetics that can no longer be downloaded; they do not count as failures."""

    def __str__(self) -> str:
        missing = f", {self.num_missing} missing" if self.num_missing else ""
        return f"{self.num_videos} videos, {self.num_quarantined} in quarantine{missing}"

    @property
    def too_many_bad(self) -> bool:
        """Whether more than 3 videos and more than 1 % of the videos are in quarantine."""
        return self.num_quarantined > max(3, 0.01 * (self.num_videos + self.num_quarantined))


def shard(config: Config, folder: str | Path, part: int | None = None) -> ShardResult:
    """Encode the videos that `config.shard` names into a dataset; keep its finished shards.

    Args:
        config: the settings.
        folder: folder of the dataset, which may hold finished shards of an earlier start.
        part: write only the shards of this one of `config.shard.parts` parts, counted from 0;
            `merge` has to follow. None writes all shards and merges them.

    Raises:
        ConfigError: settings or annotations are invalid, or the dataset was started with others.
        ShardError: a file of the dataset is damaged.
        WriteError: the disk is full or not writable.
    """
    settings = config.shard
    folder = Path(folder)
    if part is not None and not 0 <= part < settings.parts:
        raise ConfigError(
            f"part {part} does not exist: shard.parts is {settings.parts}, so parts are numbered 0"
            f" to {settings.parts - 1}"
        )
    _check_place(folder, settings)
    annotations = read_annotations(settings)
    folder.mkdir(parents=True, exist_ok=True)
    plan = load_or_create_plan(folder, annotations, settings)
    _log_mirror_images(plan)
    # Take every `parts`-th shard, and of those the ones that are not finished yet.
    tasks = list_tasks(annotations, plan)
    if part is not None:
        tasks = tasks[part :: settings.parts]
    todo = [task for task in tasks if not (folder / task.name).exists()]
    log.info("%s: %d of %d shards left to write", folder, len(todo), len(tasks))
    encode_task = partial(encode_shard, folder, settings)
    processes = config.run.threads or num_cpus()
    began = time.monotonic()
    limit = settings.max_seconds
    written = run_tasks(encode_task, todo, processes, _quarantine_crashed, limit)
    for count, name in enumerate(written, 1):
        progress = progress_text(count, len(todo), time.monotonic() - began)
        log.info("%s: wrote %s (%s)", folder, name, progress)
    if part is None:
        return merge(folder)
    bad = [video for task in tasks for video in read_shard_list(folder, task.name)]
    return _result(sum(len(task.videos) for task in tasks) - len(bad), bad)


def encode_shard(folder: Path, settings: ShardSettings, task: ShardTask, note: Note) -> str:
    """Write one shard and its quarantine list; return the name of the shard.

    The list is written first: a shard that exists is finished, and so is its list.

    Raises:
        WriteError: the disk is full or not writable.
    """
    crashes = dict(task.crashes)
    bad = []
    remove_leftovers(folder, task.name)
    with atomic_file(folder / task.name, advice=ADVICE) as file:
        for video in task.videos:
            note(video.key)
            try:
                if video.key in crashes:
                    raise BadVideoError(crashes[video.key])
                record, jpegs = encode(video, settings)
            except BadVideoError as error:
                bad.append(QuarantinedVideo(video.key, video.path, str(error)))
            else:
                append_video(file, record, jpegs)
        note("")
        end_shard(file)
        write_shard_list(folder, task.name, bad)
    return task.name


def encode(video: Video, settings: ShardSettings) -> tuple[VideoRecord, list[bytes]]:
    """Return the record and the JPEG frames of a video.

    Raises:
        BadVideoError: the video goes to quarantine.
    """
    path = Path(settings.source).expanduser() / video.path
    try:
        if settings.format == "kinetics" and not path.exists():
            raise BadVideoError(MISSING)
        encoded = encode_frames(path, settings, video.reverse)
    except MemoryError:
        raise BadVideoError("its frames need more memory than a worker may take") from None
    except OSError as error:
        raise BadVideoError(f"cannot read the file: {error.strerror or error}") from None
    if sum(map(len, encoded.jpegs)) > MAX_VIDEO_BYTES:
        raise BadVideoError(TOO_LARGE)
    record = VideoRecord(
        key=video.key,
        labels=video.labels,
        width=encoded.width,
        height=encoded.height,
        source=video.path,
        source_width=encoded.source_width,
        source_height=encoded.source_height,
        source_frames=encoded.source_frames,
        fps=encoded.fps,
        seconds=encoded.seconds,
        warning=encoded.warning,
        planes=encoded.planes,
        group=video.group,
    )
    return record, encoded.jpegs


def encode_frames(path: Path, settings: ShardSettings, reverse: bool) -> EncodedVideo:
    """Return the frames of a video file or of a folder of frames, or its optical flow.

    Raises:
        BadVideoError: the video cannot be used.
        ConfigError: flow is to be computed, but OpenCV is not installed.
    """
    if settings.flow == "folders":
        if not path.is_dir():
            raise BadVideoError("shard.flow is folders, but this is not a folder of flow images")
        return read_flow_folder(path, settings, reverse)
    encode = encode_folder if path.is_dir() else encode_video
    if settings.flow == "none":
        return encode(path, settings, reverse)
    # Flow is computed between all frames; shard.frame_cap limits the frames of flow.
    every_frame = settings.model_copy(update={"frame_cap": 0})
    return compute_flow(encode(path, every_frame, reverse), settings)


def merge(folder: str | Path) -> ShardResult:
    """Write the tables, quarantine.csv and dataset.yaml, made from the plan and the shards alone.

    Raises:
        ShardError: shards are missing or damaged.
        WriteError: the disk is full or not writable.
    """
    folder = Path(folder)
    plan = read_plan(folder)
    shards = {split: range(num_shards(plan, split)) for split in plan.splits}
    names = [shard_name(split, shard) for split in shards for shard in shards[split]]
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise ShardError(
            f"{folder}: {len(missing)} of {len(names)} shards are missing, {missing[0]} first. Run"
            " `tin shard` for the missing parts, or without --part, then merge again."
        )
    remove_leftovers(folder)
    remove_leftovers(folder / "quarantine")
    # Make the tables of each split from its shards, which are read in parallel.
    classes = {name: index for index, name in enumerate(plan.classes)}
    counts: dict[str, int] = {}
    tables: dict[str, str] = {}
    for split, numbers in shards.items():
        read = partial(_numbered_rows, folder, split, classes)
        rows = dict(run_tasks(read, numbers, num_cpus()))
        in_order = [rows[shard] for shard in numbers]
        tables |= write_split(folder, split, in_order, groups=plan.groups)
        counts[split] = sum(len(rows[shard].videos) for shard in numbers)
    bad = [video for name in names for video in read_shard_list(folder, name)]
    write_dataset_list(folder, bad)
    # Write dataset.yaml last: its presence shows that the dataset is complete.
    info = plan.model_dump() | {"splits": counts, "tables": tables, "digest": ""}
    write_info(folder, DatasetInfo.model_validate(info))
    return _result(sum(counts.values()), bad)


def _check_place(folder: Path, settings: ShardSettings) -> None:
    """Check that shards would not be written among the videos.

    Raises:
        ConfigError: the dataset is the source folder, or inside one whose folders are classes.
    """
    source = Path(settings.source).expanduser().resolve()
    place = folder.resolve()
    has_class_folders = not settings.labels and settings.format in ("", "direction")
    if source.is_dir() and (
        place == source or (has_class_folders and place.is_relative_to(source))
    ):
        raise ConfigError(
            f"the dataset {folder} lies in the folder of the videos, {source}, where its shards"
            " would be taken for a class. Name a folder outside, for example"
            f" {source.with_name(f'{source.name}-shards')}"
        )


def _result(num_videos: int, bad: Sequence[QuarantinedVideo]) -> ShardResult:
    num_missing = sum(video.is_missing for video in bad)
    return ShardResult(num_videos, len(bad) - num_missing, num_missing)


def _log_mirror_images(plan: ShardPlan) -> None:
    for index, mirror in enumerate(plan.left_right):
        if index < mirror:
            log.info("mirror images: %s, %s", plan.classes[index], plan.classes[mirror])


def _quarantine_crashed(error: CrashError[ShardTask]) -> ShardTask:
    """Return the task again, now without the video that crashed the decoder."""
    if not error.note:
        raise ShardError(
            f"{error.task.name}: {error.reason} while no video was open. Check the installation"
            " with `tin check`."
        )
    return replace(error.task, crashes=(*error.task.crashes, (error.note, error.reason)))


def _numbered_rows(
    folder: Path, split: str, classes: dict[str, int], shard: int, note: Note
) -> tuple[int, ShardRows]:
    """Return the rows of a shard with its number, since shards are read in any order."""
    return shard, read_rows(folder, split, shard, classes)

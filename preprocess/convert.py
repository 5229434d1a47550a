"""Videos to shards: planned, encoded in processes and parts, continued after a kill, merged."""

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from configs.load import ConfigError
from configs.schema import Config, ShardSettings
from preprocess.annotations.read import Video, read_annotations
from preprocess.decode import BadVideoError
from preprocess.frame_folders import encode_folder
from preprocess.shard_plan import ShardTask, begin, list_tasks, num_shards, read_plan
from preprocess.shards import (
    DatasetInfo,
    ShardPlan,
    ShardRows,
    read_rows,
    shard_name,
    write_info,
    write_split,
)
from preprocess.tars import (
    MAX_BYTES,
    ShardError,
    VideoRecord,
    append_video,
    end_shard,
    replacing,
)
from preprocess.videos import encode_video
from preprocess.workers import CrashError, Note, num_cpus, run_tasks

log = logging.getLogger(__name__)

MISSING = "it is not there, as videos of Kinetics may be"


@dataclass(frozen=True)
class ShardResult:
    """What became of the videos of a dataset, or of one part of it."""

    num_videos: int
    """Videos that were stored."""
    num_quarantined: int
    """Videos that were not."""
    num_missing: int = 0
    """Videos of Kinetics that are no longer to be had; they count as no failure."""

    def __str__(self) -> str:
        missing = f", {self.num_missing} missing" if self.num_missing else ""
        return f"{self.num_videos} videos, {self.num_quarantined} in quarantine{missing}"

    @property
    def too_many_bad(self) -> bool:
        """Whether more than 3 and more than 1 % of the videos are in quarantine."""
        return self.num_quarantined > max(3, 0.01 * (self.num_videos + self.num_quarantined))


def shard(config: Config, folder: str | Path, part: int | None = None) -> ShardResult:
    """Encode the videos that `config.shard` names into a dataset; finished shards are kept.

    With `part`, counted from 0, only that one of `config.shard.parts` is done, and `merge` has to
    follow; with None all of it, and the merge.

    Raises:
        ConfigError: settings or annotations that cannot be used, or a folder begun with others.
        ShardError: the folder cannot be read or written.
    """
    settings, folder = config.shard, Path(folder)
    if part is not None and not 0 <= part < settings.parts:
        raise ConfigError(f"part {part} is none of shard.parts={settings.parts}, counted from 0")
    annotations = read_annotations(settings)
    folder.mkdir(parents=True, exist_ok=True)
    plan = begin(folder, annotations, settings)
    _show_mirror_images(plan)
    jobs = list_tasks(annotations, plan)
    if part is not None:
        jobs = jobs[part :: settings.parts]
    todo = [job for job in jobs if not (folder / job.name).exists()]
    log.info("%s: %d of %d shards to write", folder, len(todo), len(jobs))
    work = partial(encode_shard, folder, settings)
    processes = config.run.threads or num_cpus()
    for done, name in enumerate(run_tasks(work, todo, processes, _without_crashed), 1):
        log.info("%s: %s written, %d of %d", folder, name, done, len(todo))
    if part is None:
        return merge(folder)
    bad = [row for job in jobs for row in _read_quarantine(folder, job.name)]
    return _result(sum(len(job.videos) for job in jobs) - len(bad), bad)


def encode_shard(folder: Path, settings: ShardSettings, job: ShardTask, note: Note) -> str:
    """Write one shard and its quarantine list; return its name."""
    crashes, bad = dict(job.crashes), []
    for leftover in folder.glob(f".{job.name}.*.tmp"):  # of a writer that was killed
        leftover.unlink(missing_ok=True)
    with replacing(folder / job.name) as file:
        for video in job.videos:
            note(video.key)
            try:
                if video.key in crashes:
                    raise BadVideoError(crashes[video.key])
                record, jpegs = encode(video, settings)
            except BadVideoError as error:
                bad.append((video.key, video.path, str(error)))
            else:
                append_video(file, record, jpegs)
        end_shard(file)
        _write_quarantine(folder, job.name, bad)  # stands before the shard counts as finished
    return job.name


def encode(video: Video, settings: ShardSettings) -> tuple[VideoRecord, list[bytes]]:
    """Return a video as it is stored.

    Raises:
        BadVideoError: it goes to quarantine.
    """
    path = Path(settings.source).expanduser() / video.path
    if settings.format == "kinetics" and not path.exists():
        raise BadVideoError(MISSING)
    try:
        one = (encode_folder if path.is_dir() else encode_video)(path, settings, video.reverse)
    except OSError as error:
        raise BadVideoError(f"it cannot be read: {error.strerror or error}") from None
    if sum(map(len, one.jpegs)) > MAX_BYTES:
        raise BadVideoError("its frames have more than 8 GiB; set shard.frame_cap or shard.fps")
    record = VideoRecord(
        key=video.key,
        labels=video.labels,
        width=one.width,
        height=one.height,
        source=video.path,
        source_width=one.source_width,
        source_height=one.source_height,
        source_frames=one.source_frames,
        fps=one.fps,
        seconds=one.seconds,
        warning=one.warning,
    )
    return record, one.jpegs


def merge(folder: str | Path) -> ShardResult:
    """Write tables, quarantine.csv and dataset.yaml, made of nothing but the plan and the tars.

    Raises:
        ShardError: shards are missing or damaged.
    """
    folder = Path(folder)
    plan = read_plan(folder)
    shards = {split: range(num_shards(plan, split)) for split in plan.splits}
    names = [shard_name(split, shard) for split in shards for shard in shards[split]]
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise ShardError(
            f"{folder}: {len(missing)} of {len(names)} shards are missing, {missing[0]} the first;"
            " run `tin shard` for the missing parts, or without --part, and then merge"
        )
    classes = {name: index for index, name in enumerate(plan.classes)}
    for leftover in folder.rglob(".*.tmp"):  # of writers that were killed
        leftover.unlink(missing_ok=True)
    counts, tables = {}, {}
    for split, numbers in shards.items():
        read = partial(_numbered_rows, folder, split, classes)
        rows = dict(run_tasks(read, numbers, num_cpus()))
        tables |= write_split(folder, split, [rows[shard] for shard in numbers])
        counts[split] = sum(len(rows[shard].videos) for shard in numbers)
    bad = [row for name in names for row in _read_quarantine(folder, name)]
    _write_bad(folder / "quarantine.csv", bad)
    info = {**plan.model_dump(), "splits": counts, "tables": tables, "digest": ""}
    write_info(folder, DatasetInfo(**info))
    return _result(sum(counts.values()), bad)


def _result(num_videos: int, bad: Sequence[Sequence[str]]) -> ShardResult:
    num_missing = sum(reason == MISSING for _, _, reason in bad)
    return ShardResult(num_videos, len(bad) - num_missing, num_missing)


def _show_mirror_images(plan: ShardPlan) -> None:
    for index, mirror in enumerate(plan.left_right):
        if index < mirror:
            names = plan.classes[index], plan.classes[mirror]
            log.info("mirror images: %s, %s", *names)


def _without_crashed(error: CrashError) -> ShardTask:
    if error.note is None:
        raise ShardError(f"{error.job.name}: {error.reason} before its first video")
    return replace(error.job, crashes=(*error.job.crashes, (error.note, error.reason)))


def _numbered_rows(
    folder: Path, split: str, classes: dict[str, int], shard: int, note: Note
) -> tuple[int, ShardRows]:
    return shard, read_rows(folder, split, shard, classes)


def _write_quarantine(folder: Path, name: str, bad: Sequence[tuple[str, str, str]]) -> None:
    path = _quarantine_path(folder, name)
    if bad:
        path.parent.mkdir(exist_ok=True)
        _write_bad(path, bad)
    else:
        path.unlink(missing_ok=True)


def _read_quarantine(folder: Path, name: str) -> list[list[str]]:
    path = _quarantine_path(folder, name)
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def _quarantine_path(folder: Path, name: str) -> Path:
    return folder / "quarantine" / f"{Path(name).stem}.csv"


def _write_bad(path: Path, bad: Sequence[Sequence[str]]) -> None:
    with replacing(path) as file:
        text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
        csv.writer(text, lineterminator="\n").writerows([("key", "source", "reason"), *bad])
        text.detach()

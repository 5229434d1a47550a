"""The run folder: settings, attempts, CSV rows, and the fence that stops older attempts."""

import contextlib
import csv
import json
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import TinError
from configs.files import explained, remove_leftovers, sync_file, sync_folder, write_text
from configs.load import ConfigError, changes, parse, read_yaml
from configs.node import node_name
from configs.schema import Config
from configs.small_files import DamagedFileError, read_bytes, read_json
from tin.runs.csv_rows import rows_before
from tin.runs.environment import describe_environment as describe_environment

log = logging.getLogger(__name__)

METRICS_COLUMNS = (
    "epoch split step loss top1 top5 map_class map_sample lr seconds clips_per_s data_wait"
).split()
STEPS = (
    "epoch step time loss lr clips_per_s data_wait memory_gb gpu_use gpu_power skipped spread"
    " checkpoint_s"
).split()
"""`spread` is the time of the slowest rank over the median of all ranks, and `checkpoint_s` the
seconds of an interval that went into checkpoints."""
BAD_FRAMES = "epoch key frame reason".split()
OFFSETS = "step block offset_1 offset_2 spread_1 spread_2 gain_1 gain_2".split()
OFFSETS_FILE = "offsets.csv"
"""Offsets in frames and gains of each interlacing block, averaged over the clips of a step, and the
spread of the offsets over these clips. `run.offset_steps` sets how often rows are written."""
CSV_FILES = ("metrics.csv", "steps.csv", "bad_frames.csv", "slow_ranks.csv", OFFSETS_FILE)
"""The files of a run to which rows are appended."""
ATTEMPT = re.compile(r"attempt-([0-9]{2,9})")
"""Name of the file of an attempt."""
COMPARED = "versions commit hardware auto".split()
"""Parts of an environment that a result depends on."""


class FencedError(TinError):
    """A newer attempt has started on this run, so this attempt must stop writing to it."""

    is_final = True


class Run:
    """A run's folder. A rank writes to it only while its attempt is the newest.

    Rank 0 writes all files. The other ranks only append rows to bad_frames.csv.
    """

    def __init__(self, path: Path):
        self.path = path
        self.attempt = 0
        """Number of this process's attempt; 0 for a process that only reads the run."""

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def tests(self) -> Path:
        """Folder of test results."""
        return self.path / "tests"

    @property
    def job(self) -> Path:
        """Folder of attempts, logs and the file DONE."""
        return self.path / "job"

    @property
    def typed_log(self) -> Path:
        """Log file of `tin train` where no job keeps one."""
        return self.job / "train.log"

    @property
    def recipe(self) -> Path:
        """File of the settings that the run was submitted with.

        A run that is still queued has no config.yaml, so these are its only settings.
        """
        return self.job / "recipe.yaml"

    def exists(self) -> bool:
        """Return whether the run has been started, that is, has a config.yaml."""
        return (self.path / "config.yaml").exists()

    def config(self) -> Config:
        """Return the settings that the run was started with.

        Raises:
            ConfigError: the folder has no config.yaml, or it is not valid.
        """
        path = self.path / "config.yaml"
        if not path.exists():
            raise ConfigError(f"{self.path} is not a run: it has no config.yaml")
        values = read_yaml(path)
        if not values:  # default settings would be taken for those of the run
            raise ConfigError(
                f"{path} is empty, so the settings of the run are lost; restore the file from a"
                " backup or from the entry `config` of a checkpoint"
            )
        return parse(Config, values, str(path))

    def attempts(self) -> list[int]:
        """Return the numbers of all attempts in ascending order.

        Raises:
            DamagedFileError: a file is named like an attempt, but without a number.
        """
        found = []
        for file in self.job.glob("attempt-*"):
            name = ATTEMPT.fullmatch(file.name)
            if name is None:
                raise DamagedFileError(
                    f"{file}: expected a name such as attempt-03; remove or rename the file"
                )
            found.append(int(name[1]))
        return sorted(found)

    def start_attempt(self) -> int:
        """Take the next attempt number and return it; older attempts can no longer write.

        Also remove the temporary files that writers of killed attempts left in the run folder.
        """
        self.job.mkdir(parents=True, exist_ok=True)
        number = max(self.attempts(), default=0) + 1
        facts = {
            "started": time.time(),
            "host": node_name(),
            "pid": os.getpid(),
            "job_id": _job_id(),
            "user": os.environ.get("SLURM_JOB_USER", ""),
        }
        # Creating the file exclusively takes the number: of processes that start at the same time,
        # only one succeeds, and the others try the next number.
        while True:
            try:
                with self._attempt_file(number).open("x") as file:
                    json.dump(facts, file)
            except FileExistsError:
                number += 1
            else:
                break
        self.attempt = number
        self.remove_older_leftovers(self.path)
        self.remove_older_leftovers(self.job, "DONE")
        return number

    def check_fence(self) -> None:
        """Check that no newer attempt has started.

        Raises:
            FencedError: a newer attempt has started.
        """
        newest = max(self.attempts(), default=0)
        if self.attempt and newest > self.attempt:
            raise FencedError(
                f"{self.path}: attempt {newest} of this run has started, so attempt"
                f" {self.attempt} must stop writing to it"
            )

    def remove_older_leftovers(self, folder: Path, name: str = "*") -> None:
        """Remove temporary files in `folder` that were last changed before this attempt started.

        Newer ones may belong to a writer that is still at work. `name` is a pattern for
        `configs.files.remove_leftovers`.
        """
        with contextlib.suppress(FileNotFoundError):
            started = self._attempt_file(self.attempt).stat().st_mtime
            remove_leftovers(folder, name, before=started)

    def write(self, name: str, text: str) -> None:
        """Write a file of the run atomically.

        Raises:
            FencedError: a newer attempt has started.
            WriteError: the disk is full or not writable.
        """
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text, check=self.check_fence)

    def append(self, name: str, columns: Sequence[str], row: Mapping[str, Any]) -> None:
        """Append the values of `row` that `columns` names to a CSV file.

        The header is written before the first row. `sync_rows` flushes the rows to the disk.

        Raises:
            FencedError: a newer attempt has started.
        """
        self.check_fence()
        with explained(self.path / name), (self.path / name).open("a", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow({key: _short(value) for key, value in row.items()})

    def sync_rows(self) -> None:
        """Flush the CSV files of the run to the disk.

        Raises:
            WriteError: the disk is full or broken.
        """
        files = [self.path / name for name in CSV_FILES if (self.path / name).exists()]
        for path in files:
            sync_file(path)
        if files:
            sync_folder(self.path)

    def cut(self, name: str, columns: Sequence[str], before: int) -> None:
        """Keep only the rows of a CSV file whose step is less than `before`.

        An incomplete last row, which a killed process left behind, is removed as well. A file that
        an earlier version began gets the columns of this version.
        """
        if not (self.path / name).exists():
            return
        text = read_bytes(self.path / name, 1 << 30).decode("utf-8", "replace")
        kept = rows_before(text, columns, before)
        self.write(name, "".join(",".join(row) + "\n" for row in [columns, *kept]))

    def done(self) -> dict[str, float]:
        """Return the finished stages with the time when each of them ended.

        Raises:
            DamagedFileError: the file DONE is damaged.
        """
        try:
            values = read_json(self.job / "DONE")
        except FileNotFoundError:
            return {}
        for stage, time_s in values.items():
            if not isinstance(time_s, (int, float)) or isinstance(time_s, bool):
                raise DamagedFileError(
                    f"{self.job / 'DONE'}: found {time_s!r} for {stage}, expected a time in"
                    " seconds; remove the file if the stage has to run again"
                )
        return values

    def finish(self, stage: str) -> None:
        """Mark a stage as finished, after the rows of all CSV files are on the disk."""
        self.sync_rows()
        self.write("job/DONE", json.dumps({**self.done(), stage: time.time()}))

    def warn_of_changes(self, facts: Mapping[str, Any]) -> None:
        """Log how versions, commit, hardware and `auto` differ from the previous attempt's.

        `facts` describe this attempt, as `write_environment` records them.
        """
        numbers = [number for number in self.attempts() if number < self.attempt]
        try:
            path = self.path / f"environment-{numbers[-1]:02d}.json"
            previous = read_json(path)
            before = {name: previous[name] for name in COMPARED}
            now = {name: facts[name] for name in COMPARED}
        except (IndexError, OSError, ValueError, KeyError):
            return  # this is the first attempt, or the previous one was killed before it wrote
        changed = changes(before, now)
        if changed:
            log.warning(
                "changed since the previous attempt: %s; each step still has the same clips,"
                " frames and crops, but the result may not be bit-equal",
                ", ".join(changed),
            )

    def write_environment(self, facts: Mapping[str, Any]) -> None:
        """Record what this attempt runs on: once at its start, and again at its end."""
        self.write(f"environment-{self.attempt:02d}.json", json.dumps(facts, indent=1))

    def _attempt_file(self, number: int) -> Path:
        return self.job / f"attempt-{number:02d}"


def _job_id() -> str:
    """Return Slurm's number of this job, `123_4` for a task of an array; empty outside of Slurm."""
    array_id = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array_id:
        return f"{array_id}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID", "")


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value

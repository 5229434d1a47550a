"""The run folder: settings, attempts, rows of metrics and steps, and the fence around writers."""

import csv
import json
import logging
import os
import platform
import socket
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from configs.errors import TinError
from configs.load import (
    ConfigError,
    changes,
    differences,
    load,
    parse,
    read_yaml,
    with_settings,
)
from configs.schema import Config
from tin.runs.commit import commit

log = logging.getLogger(__name__)

METRICS = (
    "epoch split step loss top1 top5 map_class map_sample lr seconds clips_per_s data_wait"
).split()
STEPS = (
    "epoch step time loss lr clips_per_s data_wait memory_gb gpu_use gpu_power skipped"
).split()
BAD_FRAMES = "epoch key frame reason".split()
COMPARED = "versions commit hardware auto".split()  # of an environment: a result depends on them
PACKAGES = "tin-video torch numpy nvidia-dali-cuda130 nvidia-dali-cuda120 av simplejpeg".split()


class FencedError(TinError):
    """A newer attempt works on this run; this one must not write any more."""

    is_final = True


class Run:
    """A run's folder. Rank 0 alone writes, and only while its attempt is the newest."""

    def __init__(self, path: Path):
        self.path = path
        self.attempt = 0
        """Number of this process's attempt; 0 for a reader."""

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
        """Folder of attempts, logs and DONE."""
        return self.path / "job"

    @property
    def recipe(self) -> Path:
        """File of the settings that the run was submitted with; one that waits has no others."""
        return self.job / "recipe.yaml"

    def exists(self) -> bool:
        """Whether the run has settings, that is, has been started once."""
        return (self.path / "config.yaml").exists()

    def config(self) -> Config:
        """Return the settings that the run was started with."""
        if not self.exists():
            raise ConfigError(f"{self.path} is no run: it holds no config.yaml")
        return parse(Config, read_yaml(self.path / "config.yaml"), str(self.path / "config.yaml"))

    def attempts(self) -> list[int]:
        """Return the numbers of all attempts, in order."""
        return sorted(
            int(file.name.removeprefix("attempt-")) for file in self.job.glob("attempt-*")
        )

    def start_attempt(self) -> int:
        """Take the next attempt number; older attempts can no longer write."""
        self.job.mkdir(parents=True, exist_ok=True)
        number = max(self.attempts(), default=0) + 1
        facts = {
            "started": time.time(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job_id": os.environ.get("SLURM_JOB_ID", ""),
        }
        while True:
            try:
                with (self.job / f"attempt-{number:02d}").open("x") as file:
                    json.dump(facts, file)
            except FileExistsError:
                number += 1
            else:
                self.attempt = number
                return number

    def check(self) -> None:
        """Raise FencedError if a newer attempt has begun."""
        newest = max(self.attempts(), default=0)
        if self.attempt and newest > self.attempt:
            raise FencedError(
                f"{self.path}: attempt {newest} has begun; attempt {self.attempt} writes no more"
            )

    def write(self, name: str, text: str) -> None:
        """Write a file of the run whole or not at all."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{self.attempt}")
        with aside.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self.check()
        aside.replace(target)

    def append(self, name: str, columns: Sequence[str], row: Mapping[str, Any]) -> None:
        """Append what `columns` names of a row to a csv; the first row brings the header."""
        self.check()
        with (self.path / name).open("a", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow({key: _short(value) for key, value in row.items()})

    def cut(self, name: str, columns: Sequence[str], before: int) -> None:
        """Drop the rows of a csv whose step is `before` or later, and a half-written last one."""
        if not (self.path / name).exists():
            return
        with (self.path / name).open(newline="") as file:
            rows = [row for row in csv.reader(file) if len(row) == len(columns)][1:]
        step = columns.index("step")
        kept = [row for row in rows if row[step].isdigit() and int(row[step]) < before]
        self.write(name, "".join(",".join(row) + "\n" for row in [columns, *kept]))

    def done(self) -> dict[str, float]:
        """Return the stages that are finished, with the time each ended."""
        try:
            return json.loads((self.job / "DONE").read_text())
        except (OSError, json.JSONDecodeError):
            return {}

    def finish(self, stage: str) -> None:
        """Mark a stage as finished."""
        self.write("job/DONE", json.dumps({**self.done(), stage: time.time()}))

    def warn_of_changes(self, facts: Mapping[str, Any]) -> None:
        """Say how versions, commit, hardware and `auto` differ from those of the attempt before."""
        numbers = [number for number in self.attempts() if number < self.attempt]
        try:
            path = self.path / f"environment-{numbers[-1]:02d}.json"
            environments = json.loads(path.read_text()), facts
            before, now = ({name: one[name] for name in COMPARED} for one in environments)
        except (IndexError, OSError, ValueError, KeyError):  # the first attempt, or cut short
            return
        changed = changes(before, now)
        if changed:
            log.warning(
                "since the attempt before: %s; clips, frames and crops of each step stay the same,"
                " but the result need not be bit-equal",
                ", ".join(changed),
            )

    def write_environment(self, facts: Mapping[str, Any]) -> None:
        """Record what this attempt runs on, once at its start and once more at its end."""
        self.write(f"environment-{self.attempt:02d}.json", json.dumps(facts, indent=1))


def resolve(recipe: str | None, run: Path, settings: Sequence[str]) -> Config:
    """Return the settings of a new run, or of one that goes on.

    A run that goes on may change settings of section `run`; any other difference is refused.

    Raises:
        ConfigError: no recipe for a new run, or a setting that differs from the run's.
    """
    folder = Run(run)
    if not folder.exists():
        if recipe is None:
            raise ConfigError(f"{run} is no run yet: name a recipe to start one")
        return load(recipe, settings)
    old = folder.config()
    if recipe is None:
        changed = with_settings(old.model_dump(mode="json"), settings)
        new = parse(Config, changed, "settings")
    else:
        new = load(recipe, settings)
    different = differences(old, new)
    if different:
        raise ConfigError(
            f"{run} was started with other settings: {'; '.join(different)}; continue it with"
            " its own (leave them out), or name another run folder"
        )
    return new


def describe_environment(device: str, world_size: int) -> dict[str, Any]:
    """Return versions, commit and hardware, for environment-<attempt>.json."""
    return {
        "started": time.time(),
        "host": socket.gethostname(),
        "job_id": os.environ.get("SLURM_JOB_ID", ""),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "python": platform.python_version(),
        "commit": os.environ.get("TIN_COMMIT") or commit(),
        "world_size": world_size,
        "device": device,
        "hardware": {"cpus": os.cpu_count(), "machine": platform.machine(), "gpu": _gpu(device)},
    }


def _gpu(device: str) -> str:
    if not device.startswith("cuda"):
        return ""
    import torch

    return torch.cuda.get_device_name(device)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value

"""The start and the end of an attempt to train a run: its number, settings and environment."""

import contextlib
import time
from typing import Any

from configs.load import dump
from configs.schema import Config
from configs.small_files import read_bytes
from tin.ranks.distributed import World
from tin.runs.csv_rows import last_time
from tin.runs.folder import Run, describe_environment
from tin.training import bad_frames


def start_attempt(run: Run, config: Config, world: World, auto: dict[str, Any]) -> dict[str, Any]:
    """Take the next attempt number, and record the settings and the environment of the attempt.

    Args:
        run: gets the number of the attempt on all ranks.
        config: is written to config.yaml.
        world: the ranks; all of them must call.
        auto: what the settings leave to the machine, and what was chosen here.

    Returns:
        The environment, for `end_attempt`.
    """
    if world.is_main:
        run.start_attempt()
        run.write("config.yaml", dump(config))
        bad_frames.start_file(run)
    run.attempt = world.broadcast(run.attempt)
    environment = describe_environment(str(world.device), world.world_size)
    environment["auto"] = auto
    if world.is_main:
        environment["previous_seen"] = _previous_seen(run)
        run.warn_of_changes(environment)
        run.write_environment(environment)
    return environment


def _previous_seen(run: Run) -> float | None:
    """Return when the attempt before this one was last seen at work; None for the first attempt.

    An attempt that was killed could not record its end. Its last row and its heartbeat tell it now;
    the rows of steps that are repeated will be removed.
    """
    earlier = [number for number in run.attempts() if number < run.attempt]
    if not earlier:
        return None
    with contextlib.suppress(OSError, ValueError):
        heartbeat = (run.job / f"attempt-{earlier[-1]:02d}").stat().st_mtime
        path = run.path / "steps.csv"
        rows = read_bytes(path, 1 << 30).decode("utf-8", "replace") if path.exists() else ""
        return max(heartbeat, last_time(rows))
    return None


def end_attempt(run: Run, world: World, environment: dict[str, Any]) -> None:
    """Record when the attempt ended, unless a newer one has begun."""
    if world.is_main and run.attempt == max(run.attempts()):
        run.write_environment({**environment, "ended": time.time()})

"""Checks of what was typed, before anything slow is imported."""

import os
from collections.abc import Sequence
from pathlib import Path

from configs.load import ConfigError


def check_sections(command: str, settings: Sequence[str], used: Sequence[str]) -> None:
    """Check that a command uses the sections of all settings that were typed for it.

    Raises:
        ConfigError: names the first setting that would have no effect.
    """
    for setting in settings:
        section = setting.split(".")[0].split("=")[0]
        if "." in setting.split("=")[0] and section not in used:
            raise ConfigError(
                f"{setting}: `{command}` does not use settings of section {section}; it uses"
                f" {' and '.join(used)}. Give this setting to the command that uses it."
            )


def check_runs(paths: Sequence[Path]) -> None:
    """Check that there is a run, started or queued, in each folder.

    Raises:
        ConfigError: names the first path without a run.
    """
    for path in paths:
        if not path.exists():
            raise ConfigError(
                f"{path} does not exist; expected a run or a folder of runs. `tin train` and"
                " `tin submit` create one with --run."
            )
        if not any("config.yaml" in files or "job" in inner for _, inner, files in os.walk(path)):
            raise ConfigError(f"{path} contains no run; expected a run or a folder of runs")

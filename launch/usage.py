"""Checks of what was typed, before anything slow is imported."""

from collections.abc import Sequence

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

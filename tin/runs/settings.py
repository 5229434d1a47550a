"""The settings that a run is started or resumed with."""

from collections.abc import Sequence
from pathlib import Path

from configs.load import ConfigError, differences, load, parse, with_settings
from configs.schema import Config
from tin.runs.folder import Run


def resolve(recipe: str | None, run_dir: Path, settings: Sequence[str]) -> Config:
    """Return the settings of a new run, or of an existing run that is resumed.

    A resumed run may change the settings of section `run`, and no others.

    Raises:
        ConfigError: a new run has no recipe, or a setting differs from those of the resumed run.
    """
    run = Run(run_dir)
    if not run.exists():
        if recipe is None:
            raise ConfigError(f"{run_dir} is not a run yet; name a recipe to start one")
        return load(recipe, settings)
    old = run.config()
    if recipe is None:
        changed = with_settings(old.model_dump(mode="json"), settings)
        new = parse(Config, changed, "settings")
    else:
        new = load(recipe, settings)
    different = differences(old, new)
    if different:
        raise ConfigError(
            f"{run_dir} was started with different settings: {'; '.join(different)}. Leave them"
            " out to resume the run with its own settings, or name another run folder."
        )
    return new

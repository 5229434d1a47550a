"""The settings that a run is started or resumed with."""

from collections.abc import Sequence
from pathlib import Path

from configs.load import ConfigError, differences, load, load_site, parse, with_settings
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
        return with_absolute_dataset(load(recipe, settings))
    old = run.config()
    if recipe is None:
        changed = with_settings(old.model_dump(mode="json"), settings)
        new = parse(Config, changed, "settings")
    else:
        new = load(recipe, settings)
    new = with_absolute_dataset(new, old)
    different = differences(old, new)
    if different:
        raise ConfigError(
            f"{run_dir} was started with different settings: {'; '.join(different)}. Leave them"
            " out to resume the run with its own settings, or name another run folder."
        )
    return new


def with_absolute_dataset(config: Config, old: Config | None = None) -> Config:
    """Return settings whose dataset is found from any folder: by an absolute path.

    A name in site.yaml stays as it is. If `old`, the settings of an existing run, name the same
    folder, their text is kept.
    """
    name = config.data.dataset
    if not name or name in load_site().datasets:
        return config
    path = Path(name).expanduser().absolute()
    if old and old.data.dataset and Path(old.data.dataset).expanduser().absolute() == path:
        text = old.data.dataset
    else:
        text = str(path)
    return config.model_copy(update={"data": config.data.model_copy(update={"dataset": text})})

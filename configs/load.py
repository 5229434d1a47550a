"""Read and write settings: recipes, `section.key=value`, a run's config.yaml, and site.yaml."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from configs.explain import explain, nearest, setting_names
from configs.schema import Config
from configs.settings import Settings
from configs.yaml_files import ConfigError as ConfigError
from configs.yaml_files import read_yaml as read_yaml
from configs.yaml_files import to_yaml as to_yaml
from configs.yaml_files import yaml_value

RECIPES = Path(__file__).parent / "recipes"
STAGED = "TIN_STAGED"
"""Environment variable with the path of a dataset's copy on this node's disk; jobs set it."""
FORMER_DEFAULTS = {"shard.held_out": (0.0, None)}
"""Former and present default of each setting whose default has changed; training ignores them."""
Model = TypeVar("Model", bound=BaseModel)


class Site(Settings):
    """Paths that differ from site to site. They never change a result."""

    datasets: dict[str, str] = {}
    """Folder of each dataset, by the name that recipes use."""
    runs: str = ""
    """Folder in which relative run folders start; empty is the current folder."""
    cache: str = ""
    """Folder of downloaded weights and compiled operators; empty is ~/.cache/tin."""
    local: str = ""
    """Folder on the node's own disk for staged shards."""
    trusted_owners: tuple[str, ...] = ()
    """Users, besides you and root, whose compiled operators may be loaded: names or numbers."""


def load(recipe: str | Path | None, settings: Sequence[str] = ()) -> Config:
    """Return a recipe with `settings` applied last.

    Args:
        recipe: path of a YAML file, or the name of one in configs/recipes; None for the defaults.
        settings: texts of the form `section.key=value`.

    Raises:
        ConfigError: a setting is wrong; names file, key, what was found and what was expected.
    """
    typed = [setting.partition("=")[0] for setting in settings]
    if recipe is None:
        return parse(Config, with_settings({}, settings), "command line")
    path = recipe_path(recipe)
    values = with_settings(read_yaml(path), settings)
    values.setdefault("recipe", path.stem)
    return parse(Config, values, path.name, typed)


def recipe_path(recipe: str | Path) -> Path:
    """Return the file of a recipe, which is given by its path or by a name in configs/recipes.

    Raises:
        ConfigError: there is no such recipe; suggests the nearest name.
    """
    path = Path(recipe)
    if path.suffix == ".yaml" and path.exists():
        return path
    named = RECIPES / f"{path.name}.yaml"
    if path.name == str(recipe) and named.exists():
        return named
    names = sorted(file.stem for file in RECIPES.glob("*.yaml"))
    hint = nearest(str(recipe), names) or "."
    raise ConfigError(
        f"unknown recipe {recipe}{hint} Give the path of an existing .yaml file, or a name that"
        " `tin config` lists"
    )


def parse(
    model: type[Model], values: Mapping[str, Any], where: str, typed: Sequence[str] = ()
) -> Model:
    """Return `values` as a `model`, strictly checked.

    Args:
        model: class of the settings.
        values: the settings, nested by section.
        where: file name or other origin of the values, for messages.
        typed: names of the values that come from the command line instead.

    Raises:
        ConfigError: lists each wrong setting on its own line.
    """
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(model, error, where, typed))) from None
    except (TypeError, ValueError) as error:  # for example a YAML date, which JSON does not have
        raise ConfigError(f"{where}: {error}; put it in quotes") from None


def with_settings(values: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Return `values` changed by each `section.key=value`, whose values are read as YAML.

    Raises:
        ConfigError: a setting does not have this form, or its value is not valid YAML.
    """
    result = {
        key: dict(value) if isinstance(value, dict) else value for key, value in values.items()
    }
    for setting in settings:
        name, found, text = setting.partition("=")
        if not found or not all(name.split(".")):
            raise ConfigError(
                f"command line: {setting!r} is not a setting of the form section.key=value"
                f"{_as_setting(name, settings)}"
            )
        *sections, key = name.split(".")
        inner = result
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"setting {setting!r}: {section} is a value, not a section")
        inner[key] = yaml_value(text, f"setting {setting!r}")
    return result


def dump(settings: BaseModel) -> str:
    """Return all settings as YAML, which `load` reads back as the same settings."""
    return to_yaml(settings.model_dump(mode="json"))


def differences(old: Config, new: Config) -> list[str]:
    """Return `section.key: old -> new` for each setting that differs, except section `run`.

    A default that changed since the older settings were written is not a difference.
    """
    known = {f"{key}: {former} -> {now}" for key, (former, now) in FORMER_DEFAULTS.items()}
    found = changes(old.model_dump(), new.model_dump())
    return [line for line in found if not line.startswith("run.") and line not in known]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return `section.key: old -> new` for each value that differs between nested mappings."""
    before = dict(leaves(old))
    after = dict(leaves(new))
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of each entry of a nested mapping."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def load_site() -> Site:
    """Return the settings of the site, or the defaults if there is no file.

    The file is the one that the environment variable TIN_SITE names, otherwise
    ~/.config/tin/site.yaml.

    Raises:
        ConfigError: the file has errors, or the one that TIN_SITE names cannot be read.
    """
    named = os.environ.get("TIN_SITE")
    path = Path(named) if named else Path.home() / ".config" / "tin" / "site.yaml"
    if not named and not path.exists():
        return Site()
    return parse(Site, read_yaml(path), path.name)


def dataset_path(name: str) -> Path:
    """Return the folder of a dataset, or its staged copy on this node's disk.

    Args:
        name: name of the dataset in site.yaml, or path of its folder.

    Raises:
        ConfigError: the folder does not exist or contains no dataset.
    """
    path = original_dataset_path(name)
    # A job may have staged another dataset than this one: compare before using its copy.
    copy = Path(os.environ.get(STAGED) or path)
    same = (copy / "dataset.yaml").read_bytes() == (path / "dataset.yaml").read_bytes()
    return copy if same else path


def original_dataset_path(name: str) -> Path:
    """Return the folder of a dataset, also on a node that has a staged copy.

    Args:
        name: name of the dataset in site.yaml, or path of its folder.

    Raises:
        ConfigError: the folder does not exist or contains no dataset.
    """
    if not name:
        raise ConfigError(
            "data.dataset is empty; set it to the folder of a dataset or to a name in site.yaml"
        )
    path = Path(load_site().datasets.get(name, name)).expanduser()
    if not (path / "dataset.yaml").exists():
        raise ConfigError(
            f"data.dataset {name}: {path.absolute()} contains no dataset.yaml; create the dataset"
            " with `tin shard`, or map its name to a folder in site.yaml"
        )
    return path


def run_path(run: str | Path) -> Path:
    """Return the path of a run folder; a relative one starts in the folder `runs` of site.yaml.

    Raises:
        ConfigError: the name has a line break or another control character, which would change
            batch scripts and tables.
    """
    if not str(run).isprintable():
        raise ConfigError(f"the name of a run must be printable, found {str(run)!a}")
    return Path(load_site().runs).expanduser() / Path(run).expanduser()


def cache_path() -> Path:
    """Return the folder of downloaded weights and compiled operators."""
    return Path(load_site().cache or "~/.cache/tin").expanduser()


def _as_setting(name: str, words: Sequence[str]) -> str:
    """Return what to type for the name of a setting that stands alone or before its value."""
    known = list(setting_names(Config))
    if name not in known:
        return nearest(name, known)
    after = words[list(words).index(name) + 1 :] if name in words else []
    value = after[0] if after and "=" not in after[0] else "VALUE"
    return f"; type {name}={value}"

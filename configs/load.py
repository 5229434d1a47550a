"""Reads and writes settings: recipes, `section.key=value`, a run's config.yaml, site.yaml."""

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from configs.errors import USAGE, TinError
from configs.schema import Config, Settings

RECIPES = Path(__file__).parent / "recipes"
STAGED = "TIN_STAGED"
"""Variable that names a copy of the dataset on this node's disk; a job sets it for itself."""
Model = TypeVar("Model", bound=BaseModel)


class ConfigError(TinError, ValueError):
    """A settings file or a `section.key=value` that cannot be used; says where and why."""

    exit_code = USAGE
    is_final = True


class Site(Settings):
    """What differs from site to site: where things lie. Never part of a result."""

    datasets: dict[str, str] = {}
    """Folders of datasets by name."""
    runs: str = ""
    """Folder that relative run folders start from; empty is the current folder."""
    cache: str = ""
    """Folder of fetched weights and compiled operators; empty is ~/.cache/tin."""
    local: str = ""
    """Node-local disk for staged shards."""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also reads 1e-3 as a number and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} stands here twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """YAML's safe writer, which quotes the text 1e-3 because `_Loader` takes it for a number."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)$"),
        list("-+.0123456789"),
    )


def load(recipe: str | Path | None, settings: Sequence[str] = ()) -> Config:
    """Return the recipe (a file, or a name in configs/recipes) with `settings` applied last.

    Raises:
        ConfigError: file, key, what was found and what was expected.
    """
    if recipe is None:
        return parse(Config, with_settings({}, settings), "settings")
    path = recipe_path(recipe)
    values = with_settings(read_yaml(path), settings)
    values.setdefault("recipe", path.stem)
    return parse(Config, values, path.name)


def recipe_path(recipe: str | Path) -> Path:
    """Return the file of a recipe: the path itself, or a name of configs/recipes."""
    path = Path(recipe)
    if path.suffix == ".yaml" and path.exists():
        return path
    named = RECIPES / f"{path.name}.yaml"
    if path.name == str(recipe) and named.exists():
        return named
    names = sorted(file.stem for file in RECIPES.glob("*.yaml"))
    raise ConfigError(
        f"no recipe {recipe}{_nearest(str(recipe), names)}; there are {', '.join(names)}"
    )


def parse(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Check `values` against `model`, strictly.

    Raises:
        ConfigError: each wrong setting in a line of its own.
    """
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        lines = [f"{where}: {line}" for line in _explain(model, error)]
        raise ConfigError("\n".join(lines)) from None
    except TypeError as error:  # a YAML date, say: JSON has none
        raise ConfigError(f"{where}: {error}; put it in quotes") from None


def with_settings(values: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Return `values` with each `section.key=value` put in; values are read as YAML."""
    result = {
        key: dict(value) if isinstance(value, dict) else value for key, value in values.items()
    }
    for setting in settings:
        name, found, text = setting.partition("=")
        if not found or not all(name.split(".")):
            raise ConfigError(f"setting {setting!r} is not of the form section.key=value")
        *sections, key = name.split(".")
        place = result
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"setting {setting!r}: {section} is a value, not a section")
        try:
            place[key] = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            raise ConfigError(f"setting {setting!r}: {_one_line(error)}") from None
    return result


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; an empty file is an empty mapping."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path.name}: {_one_line(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path.name}: a mapping is expected, found {type(values).__name__}")
    return values


def dump(settings: BaseModel) -> str:
    """Return all settings as YAML that `load` reads back to the same settings."""
    return to_yaml(settings.model_dump(mode="json"))


def to_yaml(values: Mapping[str, Any]) -> str:
    """Return YAML that `read_yaml` reads back to the same values, keys in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def differences(old: Config, new: Config) -> list[str]:
    """Return `section.key: old -> new` for what differs, section `run` left out."""
    found = changes(old.model_dump(), new.model_dump())
    return [line for line in found if not line.startswith("run.")]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return `section.key: old -> new` for what differs between two nested mappings."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]


def load_site() -> Site:
    """Return site.yaml (its path in TIN_SITE, else ~/.config/tin/site.yaml), empty if absent."""
    named = os.environ.get("TIN_SITE")
    path = Path(named) if named else Path.home() / ".config" / "tin" / "site.yaml"
    if not named and not path.exists():
        return Site()
    return parse(Site, read_yaml(path), path.name)


def dataset_path(name: str) -> Path:
    """Return the folder of a dataset given by its name in site.yaml or by its path.

    Raises:
        ConfigError: there is no such folder.
    """
    if not name:
        raise ConfigError("no dataset is named: set data.dataset=FOLDER, or a name in site.yaml")
    path = Path(load_site().datasets.get(name, name)).expanduser()
    if not (path / "dataset.yaml").exists():
        raise ConfigError(
            f"data.dataset {name}: {path.absolute()} holds no dataset.yaml; make it with"
            " `tin shard`, or name its folder in site.yaml"
        )
    copy = Path(os.environ.get(STAGED) or path)
    same = (copy / "dataset.yaml").read_bytes() == (path / "dataset.yaml").read_bytes()
    return copy if same else path


def run_path(run: str | Path) -> Path:
    """Return a run's folder; a relative one starts at `runs` of site.yaml."""
    return Path(load_site().runs).expanduser() / Path(run).expanduser()


def cache_path() -> Path:
    """Return the folder of fetched weights and compiled operators."""
    return Path(load_site().cache or "~/.cache/tin").expanduser()


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _explain(model: type[BaseModel], error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = list(_setting_names(model))
            yield f"unknown setting {key}{_nearest(key, known)}"
        elif problem["type"] == "value_error":
            yield problem["msg"].removeprefix("Value error, ")
        else:
            expected = problem["msg"].removeprefix("Input should be ")
            yield f"{key}: found {problem['input']!r}, expected {expected}"


def _setting_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        yield prefix + name
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _setting_names(kind, f"{prefix}{name}.")


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

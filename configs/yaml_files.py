"""YAML: read by the C parser within bounds, so that no file takes the memory or the stack."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from configs.errors import USAGE, TinError
from configs.small_files import DamagedFileError, named, read_bytes

MAX_DEPTH = 30
"""Deepest nesting; settings need five levels."""
MAX_ALIASES = 100
MAX_VALUES = 1_000_000
"""Most values of a file, counting a value again for each alias of it."""
MAX_NUMBER = 1000
"""Most characters of a number; 1:30:30:... of 100,000 parts would take minutes to compute."""
NUMBER = re.compile(r"[-+.]*[0-9][-+.:0-9A-Za-z_]*")
"""What every plain text that YAML takes for a number looks like."""


class ConfigError(TinError, ValueError):
    """A settings file or a `section.key=value` that cannot be used; says where and why."""

    exit_code = USAGE
    is_final = True


class _Loader(yaml.CSafeLoader):
    """YAML's safe loader, which also reads 1e-3 as a number and rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "found a key that is not a text", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key.value}", node.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """YAML's safe dumper, which quotes the text 1e-3 because `_Loader` reads it as a number."""


# PyYAML reads 1e-3 as text, because it expects a dot and a signed exponent: 1.0e-3.
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)$"),
        list("-+.0123456789"),
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        ConfigError: the file cannot be read, or contains something else.
    """
    try:
        values = yaml_value(read_bytes(path).decode("utf-8"), path.name)
    except (OSError, UnicodeDecodeError, DamagedFileError) as error:
        raise ConfigError(named(path, error)) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path.name}: expected a mapping, found {type(values).__name__}")
    return values


def yaml_value(text: str, where: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: the YAML.
        where: file name or other origin of the text, for messages.

    Raises:
        ConfigError: the text is not valid YAML, or it is nested or repeated beyond the bounds.
    """
    try:
        _check_bounds(text)
        values = yaml.load(text, Loader=_Loader)
        _check_size(values)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from None
    return values


def to_yaml(values: Mapping[str, Any]) -> str:
    """Return values as YAML, which `read_yaml` reads back unchanged and in the same order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _check_bounds(text: str) -> None:
    """Raise ValueError if a text is nested too deep, or has too many values, to be loaded."""
    depth = 0
    aliases = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        elif isinstance(event, yaml.ScalarEvent) and _is_long_number(event):
            raise ValueError(f"a number of more than {MAX_NUMBER} characters")
        if number > MAX_VALUES:  # each takes hundreds of bytes while it is loaded
            raise ValueError(f"more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
        if aliases > MAX_ALIASES:
            raise ValueError(f"more than {MAX_ALIASES} aliases")


def _is_long_number(event: yaml.ScalarEvent) -> bool:
    is_long = len(event.value) > MAX_NUMBER
    return is_long and event.implicit[0] and NUMBER.fullmatch(event.value) is not None


def _check_size(values: Any) -> None:
    """Raise ValueError if values have too many entries, as a few nested aliases may have."""
    count = 0
    pending = [values]
    while pending:
        value = pending.pop()
        count += 1
        if count > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)

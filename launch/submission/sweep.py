"""Sweeps: lists of values in settings. `optim.lr=0.01,0.02 train.seed=0,1` is four runs."""

import itertools
from collections.abc import Iterator, Sequence

from configs.load import ConfigError

OPENING = "[{"
CLOSING = "]}"
QUOTES = "'\""


def expand(settings: Sequence[str]) -> dict[str, list[str]]:
    """Return the settings of each run by the name of its folder; a single run has the name "".

    A comma outside of brackets and quotes separates two values; ``[10, 20]`` is one value.

    Raises:
        ConfigError: two runs would get the same folder.
    """
    choices = [_choices(setting) for setting in settings]
    swept = [index for index, values in enumerate(choices) if len(values) > 1]
    runs: dict[str, list[str]] = {}
    for chosen in itertools.product(*choices):
        folder = "_".join(_folder_name(chosen[index]) for index in swept)
        if folder in runs:
            raise ConfigError(f"two runs of the sweep would have the same folder {folder}")
        runs[folder] = list(chosen)
    return runs


def _choices(setting: str) -> list[str]:
    """Return `key=value` for each value of the list in a setting."""
    name, found, text = setting.partition("=")
    return [f"{name}={value}" for value in _split(text)] if found else [setting]


def _split(text: str) -> Iterator[str]:
    """Yield the parts of a text between commas outside of brackets and quotes."""
    depth = 0
    quote = ""
    start = 0
    for index, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in QUOTES:
            quote = letter
        elif letter in OPENING:
            depth += 1
        elif letter in CLOSING:
            depth -= 1
        elif letter == "," and depth == 0:
            yield text[start:index]
            start = index + 1
    yield text[start:]


def _folder_name(setting: str) -> str:
    """Return a part of a folder's name; characters that are unsafe in a path become dashes."""
    name, _, value = setting.partition("=")
    kept = "".join(letter if letter.isalnum() or letter in ".+-" else "-" for letter in value)
    return f"{name}-{kept.strip('-')}"

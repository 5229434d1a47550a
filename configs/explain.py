"""Explains settings that are wrong: where they stand, what was found, and what was expected."""

import difflib
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ValidationError


def explain(
    model: type[BaseModel], error: ValidationError, where: str, typed: Sequence[str] = ()
) -> Iterator[str]:
    """Yield a line for each wrong setting: its place, its name, what was found and expected.

    Args:
        model: class of the settings.
        error: what pydantic found.
        where: file of the settings.
        typed: names of the settings that were typed on the command line.
    """
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            text = f"unknown setting {key}{nearest(key, list(setting_names(model)))}"
        elif problem["type"] == "value_error":
            text = problem["msg"].removeprefix("Value error, ")
        else:
            expected = problem["msg"].removeprefix("Input should be ")
            found = "nothing" if problem["input"] is None else repr(problem["input"])
            text = f"{key}: found {found}, expected {expected}"
        is_typed = any(key == name or (not key and name in text) for name in typed)
        is_typed |= any(name.startswith(f"{key}.") or key.startswith(f"{name}.") for name in typed)
        yield f"{'command line' if is_typed else where}: {text}"


def setting_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings and sections of a model."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        yield prefix + name
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from setting_names(kind, f"{prefix}{name}.")


def nearest(name: str, known: Sequence[str]) -> str:
    """Return `; did you mean X?` for the most similar known name; empty if none is similar.

    A name without its section is found in any section.
    """
    last = [other for other in known if other.rpartition(".")[2] == name]
    close = last or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""

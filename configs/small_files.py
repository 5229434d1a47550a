"""Reads small files that other processes or people wrote: regular files only, bounded, never raw.

A run folder may hold a FIFO, a link to a device or garbage. Whatever a file contains, its reader
returns its content or raises a `DamagedFileError` that names the file.
"""

import io
import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import TypeAdapter, ValidationError

from configs.errors import TinError

MAX_BYTES = 16 << 20
"""Largest small file: no run of this project writes one of a tenth of this size."""
MAX_DEPTH = 100
"""Deepest nesting of JSON; files of this project need a few levels."""
Value = TypeVar("Value")


class DamagedFileError(TinError, ValueError):
    """A file that cannot be used; the message names it and says what was found and expected."""

    is_final = True


def named(path: Path, error: Exception) -> str:
    """Return the text of an error that a file caused, with the name of the file once."""
    return str(error) if isinstance(error, DamagedFileError) else f"{path}: {error}"


def open_regular(path: Path, *, follow: bool = True) -> io.BufferedReader:
    """Open a regular file for reading; a FIFO or a device is an error and never blocks.

    Args:
        path: the file.
        follow: whether the last part of the path may be a link. Files in folders that others may
            write are opened without following links.

    Raises:
        DamagedFileError: the file is not a regular file.
        OSError: the file cannot be opened.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    handle = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DamagedFileError(f"{path}: is not a regular file; remove it")
    return os.fdopen(handle, "rb")


def read_bytes(path: Path, max_bytes: int = MAX_BYTES, *, follow: bool = True) -> bytes:
    """Return the content of a small regular file.

    Raises:
        DamagedFileError: the file is larger than `max_bytes`, not regular, or cannot be read.
        FileNotFoundError: there is no such file.
    """
    try:
        with open_regular(path, follow=follow) as file:
            # A read allocates what it asks for, so ask for no more than the file has.
            size = min(os.fstat(file.fileno()).st_size, max_bytes)
            data = file.read(size + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFileError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(data) > max_bytes:
        raise DamagedFileError(f"{path}: found more than {max_bytes} bytes, expected a small file")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; its numbers are finite. Links are not followed.

    Raises:
        DamagedFileError: the file does not hold a JSON object.
        FileNotFoundError: there is no such file.
    """
    data = read_bytes(path, follow=False)
    try:
        values = json.loads(data.decode("utf-8"), parse_constant=_reject, parse_float=_finite)
        _check_depth(values)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path}: is not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise DamagedFileError(f"{path}: found a {type(values).__name__}, expected a JSON object")
    return values


def read_record(path: Path, adapter: TypeAdapter[Value]) -> Value:
    """Return the object in a JSON file as a dataclass, with the types of its fields checked.

    Raises:
        DamagedFileError: the file does not hold such an object.
        FileNotFoundError: there is no such file.
    """
    return as_record(read_json(path), adapter, str(path))


def as_record(values: dict[str, Any], adapter: TypeAdapter[Value], where: str) -> Value:
    """Return values of JSON as a dataclass, with the types of its fields checked.

    Raises:
        DamagedFileError: a field is missing or has another type.
    """
    try:
        return adapter.validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise DamagedFileError(f"{where}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """Return the first field that an error is about, and what is wrong with it, in one line."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    return f"{field}: {first['msg']}" if field else first["msg"]


def _check_depth(values: Any) -> None:
    """Raise ValueError if values are nested so deep that code which visits them could fail."""
    level = [values]
    for _ in range(MAX_DEPTH):
        nested = [value for value in level if isinstance(value, (dict, list))]
        level = [
            inner
            for value in nested
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    if level:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")


def _reject(name: str) -> NoReturn:
    raise ValueError(f"found {name}, expected a finite number")


def _finite(text: str) -> float:
    """Return a number of JSON; 1e999 is not a finite number."""
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"found {text}, expected a finite number")
    return value

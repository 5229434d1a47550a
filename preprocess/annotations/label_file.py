"""Reads a labels file as people have them: any encoding, separator and column names in use."""

import csv
import difflib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from configs.load import ConfigError
from configs.small_files import DamagedFileError, named, read_bytes

log = logging.getLogger(__name__)

COLUMNS = ("path", "labels", "split", "key", "group", "reverse")
OTHER_NAMES = {"file": "path", "label": "labels", "class": "labels"}
"""Other names of the required columns."""
HEADER = "path,labels[,split][,key][,group][,reverse]"
SEPARATORS = ",;\t"
MAX_LABELS_BYTES = 256 << 20
"""Largest file of annotations: about a million videos."""
MAX_COLUMNS = 1000
TYPO = 0.8
"""From this similarity on, an unknown column is taken for a misspelled one (difflib's ratio)."""


class AnnotationError(ConfigError):
    """Annotations that cannot be used; says in which file and line, and what was expected."""


class LabelRow(NamedTuple):
    """A line of a labels file."""

    where: str
    """File and line, for messages."""
    fields: Mapping[str, str]
    """Values by the names of `COLUMNS`; columns that the file lacks are missing."""


def read_label_rows(path: Path) -> list[LabelRow]:
    """Return the lines of a labels file with the names of `COLUMNS`.

    The text is UTF-8, UTF-16 or Latin-1. The separator is a comma, a semicolon or a tab. Other
    columns are ignored, and one line of the log names them.

    Raises:
        AnnotationError: the file cannot be read, a column is missing or misspelled, or a line has
            more or fewer fields than the first one.
    """
    lines = _text(path).splitlines(keepends=True)
    first = lines[0] if lines else ""
    separator = max(SEPARATORS, key=first.count)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        header = next(reader, [])
        names = _names(path, header)
        rows = []
        for row in reader:
            where = f"{path.name}:{reader.line_num}"
            if row and len(row) != len(header):
                raise AnnotationError(
                    f"{where}: found {len(row)} fields, but the first line has {len(header)}; the"
                    " line has more or fewer fields than the first line"
                )
            if row:
                fields = {name: value for name, value in zip(names, row, strict=True) if name}
                rows.append(LabelRow(where, fields))
        return rows
    except csv.Error as error:
        raise AnnotationError(f"{path.name}:{reader.line_num}: {error}") from None


def _text(path: Path) -> str:
    """Return the text of a file in UTF-8 or UTF-16, with or without BOM, or in Latin-1."""
    try:
        data = read_bytes(path, MAX_LABELS_BYTES)
    except (OSError, DamagedFileError) as error:
        raise AnnotationError(named(path, error)) from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    # The first character of a header is ASCII: without a BOM, a zero byte beside it shows UTF-16.
    if data[:1] == b"\0" or data[1:2] == b"\0":
        order = "be" if data[:1] == b"\0" else "le"
        return data.decode(f"utf-16-{order}", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        log.info("%s is not UTF-8; it is read as Latin-1", path.name)
        return data.decode("latin-1")


def _names(path: Path, header: Sequence[str]) -> list[str]:
    """Return the name in `COLUMNS` of each column of a file; empty for a column to be ignored.

    Raises:
        AnnotationError: a required column is missing, a column is misspelled or given twice, or
            there are too many columns.
    """
    if len(header) > MAX_COLUMNS:
        raise AnnotationError(
            f"{path.name}: {len(header)} columns, expected at most {MAX_COLUMNS}; the first line"
            f" must be {HEADER}"
        )
    found = [name.strip().lower() for name in header]
    names = [OTHER_NAMES.get(name, name) for name in found]
    names = [name if name in COLUMNS else "" for name in names]
    ignored = [name.strip() for name, known in zip(header, names, strict=True) if not known]
    for name in COLUMNS:
        if names.count(name) > 1:
            same = [text for text, known in zip(header, names, strict=True) if known == name]
            raise AnnotationError(
                f"{path.name}: columns {' and '.join(map(repr, same))} both mean {name}; rename one"
            )
    for name in ignored:
        absent = [known for known in (*COLUMNS, *OTHER_NAMES) if known not in found]
        close = difflib.get_close_matches(name.lower(), absent, n=1, cutoff=TYPO)
        if close and OTHER_NAMES.get(close[0], close[0]) not in names:
            raise AnnotationError(
                f"{path.name}: unknown column {name!r}; did you mean {close[0]}? The columns are"
                f" {', '.join(COLUMNS)}"
            )
    for name, other in (("path", "file"), ("labels", "label or class")):
        if name not in names:
            columns = ", ".join(text.strip() for text in header) or "nothing"
            raise AnnotationError(
                f"{path.name}: column {name} is missing (it may also be called {other}); the first"
                f" line must be {HEADER}, found {columns}"
            )
    if ignored:
        log.info("%s: ignored columns: %s", path.name, ", ".join(ignored))
    return names

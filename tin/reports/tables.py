"""Tables of runs for reading: percent, short names, what is the same everywhere said once."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

PERCENT = "top1 top5 mean_class map_class map_sample published delta data_wait".split()
SHARED = (  # columns that are said once where all rows agree
    "recipe dataset temporal arch num_segments views crop pretrained seed epochs global_batch"
    " params gflops published restarts commit"
).split()

LESS_NEEDED = (  # columns that a narrow terminal goes without, these first
    "commit restarts pretrained gflops params recipe epochs best_epoch data_wait gpu_hours"
    " clips_per_s dataset seed global_batch published top5 mean_class crop arch num_segments"
).split()


def readable(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the table for reading, and in words what all its rows have in common.

    Texts, percent, short names of runs; columns without content, or with the same in all rows,
    are left out.
    """
    shown = frame.copy()
    shown["run"] = _short_names(frame["run"])
    for column in PERCENT:
        sign = "+" if column == "delta" else ""
        shown[column] = [_text(100 * value, f"{sign}.2f") for value in frame[column]]
    for column, form in {"gflops": ".2f", "clips_per_s": ".1f", "gpu_hours": ".2f"}.items():
        shown[column] = [_text(value, form) for value in frame[column]]
    shown["params"] = [_text(value / 1e6, ".2f") for value in frame["params"]]
    shown = shown.astype(object).where(shown.notna(), "").astype(str)
    values = {name: set(shown[name]) - {""} for name in frame.columns}
    common = [name for name in SHARED if len(values[name]) == 1]
    shared = ", ".join(f"{_title(name)} {min(values[name])}" for name in common)
    empty = [name for name in values if not values[name] and name not in ("run", "state")]
    return shown.drop(columns=common + empty).rename(columns=_title), shared


def plain(table: pd.DataFrame, width: int | None = None) -> str:
    """Return what `readable` gives as lines of text, at most ``width`` wide if that can be.

    A narrow table goes without some columns; what a state has to say follows the table.
    """
    kinds = [state.partition(":")[0] for state in table["state"]]
    shown = table.assign(state=kinds)
    widths = {name: max(map(len, [name, *shown[name]])) for name in shown.columns}
    for title in map(_title, LESS_NEEDED):
        if width and title in widths and sum(widths.values()) + 2 * len(widths) > width:
            del widths[title]

    places = [
        (str.rjust if is_number(shown[name]) else str.ljust, size) for name, size in widths.items()
    ]

    def line(cells: Iterable[str]) -> str:
        placed = [place(cell, size) for cell, (place, size) in zip(cells, places, strict=True)]
        return "  ".join(placed).rstrip()

    lines = [line(widths), *map(line, shown[list(widths)].to_numpy().tolist())]
    told = table[table["state"] != shown["state"]]
    lines += [f"{run}: {said}" for run, said in zip(told["run"], told["state"], strict=True)]
    return "\n".join(lines)


def is_number(column: pd.Series) -> bool:
    """Return whether a column of texts holds numbers, and nothing else but gaps."""
    filled = column[column != ""]
    return len(filled) > 0 and bool(pd.to_numeric(filled, errors="coerce").notna().all())


def markdown(table: pd.DataFrame, shared: str) -> str:
    """Return what `readable` gives as a markdown page."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"

    rule = "|" + " --- |" * len(table.columns) + "\n"
    rows = "".join(line(row) for row in table.to_numpy().tolist())
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    about = f"{date}; all rows: {shared}" if shared else date
    return f"# Results\n\n{about}\n\n{line(table.columns)}{rule}{rows}"


def _title(name: str) -> str:
    return f"{name} %" if name in PERCENT else "params M" if name == "params" else name


def _text(value: Any, form: str) -> str:
    return "" if pd.isna(value) else f"{value:{form}}"


def _short_names(runs: Iterable[str]) -> list[str]:
    """Return the paths below the deepest folder that holds all runs."""
    paths = [Path(run) for run in runs]
    parents = paths[0].parents if paths else []
    shared = next((p for p in parents if all(path.is_relative_to(p) for path in paths)), None)
    return [str(path.relative_to(shared) if shared else path) for path in paths]

"""Tables of runs for reading: percent, short names, and shared settings stated once."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd

ReportState = Literal[
    "done",
    "running",
    "stopped",
    "lost",
    "waiting",
    "imported",
    "missing",
    "broken",
    "test did not end",
]
"""What the column `state` says of a run or a test; ": " and a reason may follow it."""

TEST_METRICS = ("top1", "top5", "mean_class", "map_class", "map_sample")
PERCENT = "top1 top5 mean_class map_class map_sample published delta data_wait goodput".split()
LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "±": "$\\pm$",
}
MARKDOWN = {letter: f"\\{letter}" for letter in "\\`*[]|"} | {
    "<": "&lt;",
    ">": "&gt;",
    "&": "&amp;",
}
SHARED = (  # columns that are stated once where all rows agree
    "recipe dataset temporal arch num_segments views crop average pretrained seed epochs"
    " global_batch params gflops published restarts commit test"
).split()
OPTIONAL = (  # columns that a narrow terminal leaves out, the first ones first
    "test average commit restarts pretrained gflops params recipe epochs best_epoch data_wait"
    " gpu_hours clips_per_s dataset seed global_batch published top5 mean_class crop arch"
    " num_segments goodput top5_range mean_class_range map_class_range map_sample_range top1_range"
).split()


def readable(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return a table for reading, and a text of the settings that all its rows share.

    All cells are text, with percent and short names of runs. Columns are left out if they are empty
    or if they hold a setting that all rows share.
    """
    shown = frame.copy()
    shown["run"] = _short_names(frame["run"])
    for metric in TEST_METRICS:
        low = frame[f"{metric}_low"]
        high = frame[f"{metric}_high"]
        ranges = [_range(*ends) for ends in zip(low, high, strict=True)]
        place = list(shown.columns).index(metric) + 1
        shown = shown.drop(columns=[f"{metric}_low", f"{metric}_high"])
        shown.insert(place, f"{metric}_range", ranges)
    for column in (name for name in PERCENT if name in frame):
        sign = "+" if column == "delta" else ""
        shown[column] = [_text(100 * value, f"{sign}.2f") for value in frame[column]]
    for column, form in {"gflops": ".2f", "clips_per_s": ".1f", "gpu_hours": ".2f"}.items():
        shown[column] = [_text(value, form) for value in frame[column]]
    shown["params"] = [_text(value / 1e6, ".2f") for value in frame["params"]]
    shown = shown.astype(object).where(shown.notna(), "").astype(str)
    values = {name: set(shown[name]) - {""} for name in shown.columns}
    common = [name for name in SHARED if len(values[name]) == 1]
    shared = ", ".join(f"{_title(name)} {min(values[name])}" for name in common)
    empty = [name for name in values if not values[name] and name not in ("run", "state")]
    return shown.drop(columns=common + empty).rename(columns=_title), shared


def plain(table: pd.DataFrame, width: int | None = None) -> str:
    """Return the table of `readable` as lines of text.

    The reasons behind states follow the table.

    Args:
        table: the table of `readable`.
        width: leave out `OPTIONAL` columns until the table is at most this wide, as far as they
            suffice; None keeps all columns.
    """
    shown = table.assign(state=[kind_of(state) for state in table["state"]])
    column_widths = {name: max(map(len, [name, *shown[name]])) for name in shown.columns}
    for title in map(_title, OPTIONAL):
        total = sum(column_widths.values()) + 2 * len(column_widths)
        if width and title in column_widths and total > width:
            del column_widths[title]
    on_the_right = {name: is_number(shown[name]) for name in column_widths}

    def line(cells: Iterable[str]) -> str:
        padded = [
            cell.rjust(size) if on_the_right[name] else cell.ljust(size)
            for cell, (name, size) in zip(cells, column_widths.items(), strict=True)
        ]
        return "  ".join(padded).rstrip()

    rows = shown[list(column_widths)].to_numpy().tolist()
    lines = [line(column_widths), *(line(row) for row in rows)]
    explained = table[table["state"] != shown["state"]]
    lines += [
        f"{run}: {state}" for run, state in zip(explained["run"], explained["state"], strict=True)
    ]
    return "\n".join(lines)


def kind_of(state: str) -> ReportState:
    """Return the state of a cell without the reason that may follow it."""
    return cast(ReportState, state.partition(":")[0])


def is_number(column: pd.Series) -> bool:
    """Return whether a column of texts holds numbers, and nothing else but gaps."""
    filled = column[column != ""]
    return len(filled) > 0 and bool(pd.to_numeric(filled, errors="coerce").notna().all())


def p_text(p: float) -> str:
    """Return a p value with four digits."""
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def markdown(table: pd.DataFrame, shared: str, seeds: pd.DataFrame) -> str:
    """Return the table of `readable`, and one of seeds unless it is empty, as a Markdown page."""
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    about = f"{date}; all rows: {_markdown_text(shared)}" if shared else date
    means = f"\n## Means over seeds\n\n{_markdown_table(seeds)}" if len(seeds) else ""
    return f"# Results\n\n{about}\n\n{_markdown_table(table)}{means}"


def latex(table: pd.DataFrame, shared: str, seeds: pd.DataFrame) -> str:
    """Return the same tables for LaTeX with the package booktabs."""
    parts = [f"% {_latex_text(shared)}" if shared else "%", _latex_table(table)]
    if len(seeds):
        parts += ["% means over seeds", _latex_table(seeds)]
    return "\n".join(parts) + "\n"


def _markdown_table(table: pd.DataFrame) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(map(_markdown_text, cells)) + " |\n"

    rule = "|" + " --- |" * len(table.columns) + "\n"
    rows = "".join(line(row) for row in table.to_numpy().tolist())
    return f"{line(table.columns)}{rule}{rows}"


def _markdown_text(text: str) -> str:
    """Return a text in which no character is Markdown or HTML."""
    one_line = " ".join(text.split())
    return "".join(MARKDOWN.get(letter, letter) for letter in one_line)


def _latex_table(table: pd.DataFrame) -> str:
    def line(cells: Iterable[str]) -> str:
        return " & ".join(map(_latex_text, cells)) + " \\\\"

    sides = "".join("r" if is_number(table[name]) else "l" for name in table.columns)
    rows = [line(row) for row in table.to_numpy().tolist()]
    return "\n".join(
        [
            f"\\begin{{tabular}}{{{sides}}}",
            "\\toprule",
            line(table.columns),
            "\\midrule",
            *rows,
            "\\bottomrule",
            "\\end{tabular}",
        ]
    )


def _latex_text(text: str) -> str:
    """Return a text in which no character is a command of LaTeX."""
    one_line = " ".join(text.split())
    return "".join(LATEX.get(letter, letter) for letter in one_line)


def _range(low: float, high: float) -> str:
    return "" if pd.isna(low) else f"{100 * low:.1f} to {100 * high:.1f}"


def _title(name: str) -> str:
    if name in PERCENT:
        return f"{name} %"
    if name.endswith("_range"):
        return f"{name.removesuffix('_range')} 95 %"
    return "params M" if name == "params" else name


def _text(value: Any, form: str) -> str:
    return "" if pd.isna(value) else f"{value:{form}}"


def _short_names(runs: Iterable[str]) -> list[str]:
    """Return the paths below the deepest folder that holds all runs."""
    paths = [Path(run) for run in runs]
    parents = paths[0].parents if paths else []
    shared = next((p for p in parents if all(path.is_relative_to(p) for path in paths)), None)
    return [str(path.relative_to(shared) if shared else path) for path in paths]

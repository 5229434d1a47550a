"""The report as one HTML page that loads nothing else: it renders templates and embeds scripts."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tin.reports import libraries
from tin.reports.comparisons import TestSet
from tin.reports.details import Details
from tin.reports.statistics import PERMUTATIONS, RESAMPLES
from tin.reports.tables import ReportState, is_number, kind_of, p_text

TEMPLATES = Path(__file__).parent / "templates"
BADGES: dict[ReportState, str] = {  # CSS classes; any other state is a problem
    "done": "done",
    "running": "running",
    "waiting": "",
    "imported": "",
}
PANELS = (
    "training loss",
    "accuracy, %",
    "test loss",
    "learning rate",
    "clips/s",
    "data wait, %",
)
"""Panels of the curves; script.js.j2 knows their columns."""
SHOWN = (  # columns of the table of runs that are visible at first, beside settings that differ
    "run temporal seed views crop top1_% top1_95_% top5_% map_class_% map_class_95_% map_sample_%"
    " map_sample_95_% published_% delta_% clips_per_s gpu_hours goodput_% state"
).split()


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    badge: str | None = None
    """CSS class of the badge around the text; None without a badge."""


@dataclass(frozen=True)
class Column:
    """The head of a column."""

    title: str
    is_number: bool
    """Whether its cells are aligned as numbers."""
    is_optional: bool = False
    """Whether it is hidden until a reader asks for it."""


@dataclass(frozen=True)
class Row:
    """A row of a table, and the index of its run on the page."""

    cells: list[Cell]
    run: int = 0


@dataclass(frozen=True)
class Table:
    """A table for the template `table.html.j2`."""

    columns: list[Column] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """The part of the page about a single run."""

    index: int
    anchor: str
    name: str
    tests: Table | None
    details: Details


@dataclass(frozen=True)
class Contents:
    """All that the page shows."""

    table: pd.DataFrame
    """Texts of the tested rows, with the columns run and state."""
    table_runs: Sequence[int]
    """Index of the run of each of these rows."""
    untested: pd.DataFrame
    """Texts of the other rows: run, state and why."""
    untested_runs: Sequence[int]
    shared: str
    """The settings that all rows share."""
    notes: Sequence[str]
    """Notes for readers from the recipes."""
    seeds: pd.DataFrame
    """Texts of the means over seeds."""
    test_sets: Sequence[TestSet]
    runs: Sequence[Mapping[str, Any]]
    """Name, curves, classes, settings and commands of each run, for the script."""
    class_sets: Sequence[Mapping[str, Any]]
    """Names and numbers of videos of the classes that runs were tested on."""
    settings: Sequence[str]
    """Settings that differ between runs."""
    selected: Sequence[int]
    """Runs that are selected at first."""
    details: Mapping[int, Details]
    """Details by the index of the run."""


def page(contents: Contents) -> str:
    """Return the page."""
    style = _source("style.css.j2")
    script = _source("script.js.j2")
    details = [
        _part(index, contents.runs[index]["name"], details)
        for index, details in contents.details.items()
    ]
    table_scripts = (libraries.tables_script(), script)
    scripts = [libraries.sha256(text) for text in (*table_scripts, libraries.plotly_script())]
    styles = (libraries.tables_style(), style, libraries.EMPTY_STYLE)
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            # The libraries and the files beside this one are trusted; all other text is escaped.
            style=Markup(style),
            tables_style=Markup(libraries.tables_style()),
            script=Markup(script),
            tables_script=Markup(libraries.tables_script()),
            packed_plotly=libraries.packed_plotly(),
            script_digests=scripts,
            style_digests=[libraries.sha256(text) for text in styles],
            data=Markup(_json(_data(contents))),
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            runs=contents.runs,
            overview=_overview(contents.table, contents.table_runs, contents.settings),
            untested=_overview(contents.untested, contents.untested_runs, ()),
            shared=contents.shared,
            notes=contents.notes,
            seeds=_table(contents.seeds),
            test_sets=contents.test_sets,
            panels=PANELS,
            details=details,
            resamples=RESAMPLES,
            permutations=PERMUTATIONS,
        )
    )


def _data(contents: Contents) -> dict[str, Any]:
    """Return what the page's script reads."""
    return {
        "runs": contents.runs,
        "class_sets": contents.class_sets,
        "settings": contents.settings,
        "selected": contents.selected,
        "details": {index: details.data for index, details in contents.details.items()},
    }


def _json(values: Any) -> str:
    """Return JSON that cannot end the script element that holds it."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c")


@functools.cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["p_value"] = p_text
    return environment


def _source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _overview(table: pd.DataFrame, run_indices: Sequence[int], settings: Sequence[str]) -> Table:
    """Return a table of runs whose states are badges; columns that few need are optional."""
    short_names = {name.rpartition(".")[2] for name in settings}
    columns = [
        Column(
            title,
            is_number(table[title]),
            title.replace(" ", "_") not in SHOWN and title not in short_names and title != "why",
        )
        for title in map(str, table.columns)
    ]
    state = list(table.columns).index("state") if "state" in table else -1
    rows = []
    for texts, run in zip(table.to_numpy().tolist(), run_indices, strict=True):
        cells = [Cell(text) for text in texts]
        kind = kind_of(texts[state])
        cells[state] = Cell(kind, badge=BADGES.get(kind, "bad"))
        rows.append(Row(cells, run))
    return Table(columns, rows)


def _table(table: pd.DataFrame) -> Table:
    columns = [Column(str(title), is_number(table[title])) for title in table.columns]
    return Table(columns, [Row([Cell(text) for text in row]) for row in table.to_numpy().tolist()])


def _part(index: int, name: str, details: Details) -> Part:
    rows = pd.DataFrame(details.tests)
    tests = _table(rows.astype(object).where(rows.notna(), "").astype(str))
    return Part(index, f"run-{index}", name, tests if tests.rows else None, details)

"""The report as one HTML page that loads nothing else: table, curves, tests and classes."""

import base64
import contextlib
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tin.evaluation.scores import ScoresError, load_result
from tin.reports.classes import Classes, by_class
from tin.reports.curves import comparison, run_curves
from tin.reports.tables import ReportState, is_number, kind_of

TEMPLATES = Path(__file__).parent / "templates"
BADGES: dict[ReportState, str] = {  # CSS classes; any other state is a problem
    "done": "done",
    "running": "running",
    "waiting": "",
    "imported": "",
}
STYLE_ELEMENT = re.compile(r"<style[^>]*>(.*?)</style>", re.DOTALL)


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    link: str = ""
    """Anchor of the section that the text links to."""
    badge: str | None = None
    """CSS class of the badge around the text; None without a badge."""


@dataclass(frozen=True)
class Column:
    """The head of a column, and whether its cells are aligned as numbers."""

    title: str
    is_number: bool


@dataclass(frozen=True)
class Table:
    """A table for the template `table.html.j2`."""

    columns: list[Column]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Section:
    """The part of the page about one run."""

    anchor: str
    name: str
    curves: Markup
    tests: Table | None
    classes: Classes | None


def page(
    table: pd.DataFrame,
    shared: str,
    notes: Sequence[str],
    run_dirs: Sequence[str],
    curves: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]],
    tests: Mapping[str, Sequence[Path]],
) -> str:
    """Return the page of a table of runs.

    Args:
        table: a table of texts, with columns run and state.
        shared: the settings that all rows share, as text.
        notes: notes for readers from the recipes.
        run_dirs: the run of each row; a run with several tests has several rows.
        curves: metrics.csv and steps.csv of each run.
        tests: folders of each run's tests, oldest first.
    """
    names = dict(zip(run_dirs, table.get("run", ()), strict=True))
    anchors = {run_dir: f"run-{number}" for number, run_dir in enumerate(names)}
    sections = [
        _section(anchors[run_dir], name, curves[run_dir], tests[run_dir])
        for run_dir, name in names.items()
    ]
    # matplotlib writes the SVG and escapes all text in it.
    compared = Markup(comparison({name: curves[run_dir] for run_dir, name in names.items()}))
    style = Markup(_templates().get_template("style.css.j2").render())
    pictures = [compared, *(section.curves for section in sections)]
    template = _templates().get_template("page.html.j2")
    return template.render(
        style=style,
        style_digests=_style_digests(style, pictures),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        overview=_overview(table, [anchors[run_dir] for run_dir in run_dirs]),
        shared=shared,
        notes=notes,
        comparison=compared,
        sections=sections,
    )


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _style_digests(style: str, pictures: Sequence[str]) -> list[str]:
    """Return the SHA-256 in base64 of each style element, which the page's policy allows."""
    styles = {style, *(found for picture in pictures for found in STYLE_ELEMENT.findall(picture))}
    return sorted(base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in styles)


def _overview(table: pd.DataFrame, anchors: Sequence[str]) -> Table:
    """Return the table of all runs: names link to the sections, and states are badges."""
    plain = _table(table)
    state = list(table.columns).index("state")
    for cells, anchor in zip(plain.rows, anchors, strict=True):
        cells[0] = Cell(cells[0].text, link=anchor)
        text = cells[state].text
        cells[state] = Cell(text, badge=BADGES.get(kind_of(text), "bad"))
    return plain


def _table(table: pd.DataFrame) -> Table:
    columns = [Column(str(title), is_number(table[title])) for title in table.columns]
    return Table(columns, [[Cell(text) for text in texts] for texts in table.to_numpy().tolist()])


def _section(
    anchor: str, name: str, curves: tuple[pd.DataFrame, pd.DataFrame], folders: Sequence[Path]
) -> Section:
    """Return curves and finished tests of a run, the newest test class by class."""
    metrics, steps = curves
    results = {}
    for folder in folders:
        with contextlib.suppress(ScoresError):  # the test's row in the table reports the error
            results[folder] = load_result(folder)
    if results:
        rows = pd.DataFrame([_test_row(folder, result) for folder, result in results.items()])
        tests = _table(rows.astype(object).where(rows.notna(), "").astype(str))
        classes = by_class(list(results)[-1])
    else:
        tests = None
        classes = None
    return Section(anchor, name, Markup(run_curves(metrics, steps)), tests, classes)


def _test_row(folder: Path, result: dict[str, Any]) -> dict[str, str]:
    """Return a row of the table of tests by column."""
    measures = result.get("metrics")
    if not isinstance(measures, dict):
        measures = {}
    row = {"test": folder.name}
    for name, value in measures.items():
        if name != "loss" and isinstance(value, float):
            row[f"{name} %"] = f"{100 * value:.2f}"
    if isinstance(measures.get("loss"), float):
        row["loss"] = f"{measures['loss']:.4f}"
    for name in ("checkpoint", "num_videos", "clips_per_s", "seconds", "date"):
        row[name] = str(result.get(name, ""))
    missing = result.get("missing")
    row["left out"] = str(len(missing)) if isinstance(missing, list) else ""
    return row

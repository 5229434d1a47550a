"""Training curves as SVG for the page: loss, accuracy, learning rate and speed."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

MAX_POINTS = 400  # points of a line; more cannot be told apart
MAX_COMPARED = 10  # runs in one picture
ACCURACIES = {"top1": "-", "top5": "--", "map_class": "-", "map_sample": "--"}  # and line styles
COLORS = ["#4272a8", "#d1793f", "#4b9a6a", "#b4566b", "#8067a8", "#8a7a5c", "#3f9aa8", "#a0a43c"]
STYLE: "dict[RcKeyType, Any]" = {
    "svg.fonttype": "none",  # keep text as text
    "svg.hashsalt": "tin",  # write the same page for the same runs
    "font.family": ["sans-serif"],
    "font.size": 9,
    "text.parse_math": False,  # a $ in the name of a run does not start a formula
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.edgecolor": "#c4cad0",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#edf0f2",
    "xtick.color": "#6a737c",
    "ytick.color": "#6a737c",
    "lines.linewidth": 1.4,
    "legend.frameon": False,
}


def run_curves(metrics: pd.DataFrame, steps: pd.DataFrame) -> str:
    """Return loss, accuracies, learning rate and clips/s of a run over its steps.

    Args:
        metrics: rows of metrics.csv.
        steps: rows of steps.csv.

    Returns:
        An ``<svg>`` element, or an empty string if the run recorded nothing.
    """
    if metrics.empty and steps.empty:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.2, 2.7))
        loss, accuracy, lr, speed = figure.subplots(1, 4)
        _plot(loss, steps, "loss", "steps", color=COLORS[0], alpha=0.35)
        for color, (split, rows) in zip(COLORS, _by_split(metrics), strict=False):
            _plot(loss, rows, "loss", split, color=color, marker=".")
            for name, line in ACCURACIES.items():
                _plot(accuracy, rows, name, f"{split} {name}", 100, color=color, line=line)
        _plot(lr, steps, "lr")
        _plot(speed, steps, "clips_per_s")
        panels = {"loss": loss, "accuracy, %": accuracy, "learning rate": lr, "clips/s": speed}
        _add_titles(panels)
        return _svg(figure)


def comparison(tables: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]) -> str:
    """Return the training loss and the measured accuracy of several runs in one picture.

    Args:
        tables: metrics.csv and steps.csv of each run by its name.

    Returns:
        An ``<svg>`` element, or an empty string if there are fewer than two runs with metrics or
        too many to tell their lines apart.
    """
    recorded = {
        name: metrics
        for name, (metrics, _) in tables.items()
        if "split" in metrics and len(metrics)
    }
    if not 1 < len(recorded) <= MAX_COMPARED:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.2, 3.4))
        loss, accuracy = figure.subplots(1, 2)
        for color, (name, metrics) in zip(2 * COLORS, recorded.items(), strict=False):
            # The first split of metrics.csv is the trained one, the second the measured one.
            trained, *measured = (rows for _, rows in _by_split(metrics))
            _plot(loss, trained, "loss", name, color=color, marker=".")
            for rows in measured[:1]:
                column = _accuracy_column(rows)
                _plot(accuracy, rows, column, name, 100, color=color, marker=".")
        _add_titles({"training loss": loss, "accuracy, %": accuracy})
        return _svg(figure)


def _accuracy_column(rows: pd.DataFrame) -> str:
    """Return the column to compare: top-1, or mAP by class where there is no top-1."""
    return "top1" if "top1" in rows and rows["top1"].notna().any() else "map_class"


def _by_split(metrics: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each split, in the order in which the splits first appear."""
    if "split" not in metrics:
        return []
    return [(str(split), rows) for split, rows in metrics.groupby("split", sort=False)]


def _plot(
    axes: Axes,
    rows: pd.DataFrame,
    column: str,
    label: str = "",
    scale: float = 1,
    *,
    color: str | None = None,
    line: str = "-",
    marker: str = "",
    alpha: float = 1.0,
) -> None:
    """Plot a column over the steps, thinned evenly to at most `MAX_POINTS` points."""
    if column not in rows or "step" not in rows:
        return
    known = rows[["step", column]].dropna()
    every = max(1, -(-len(known) // MAX_POINTS))
    known = known.iloc[::every]
    if len(known):
        axes.plot(
            known["step"],
            scale * known[column],
            label=label or None,
            color=color,
            linestyle=line,
            marker=marker,
            alpha=alpha,
        )


def _add_titles(panels: Mapping[str, Axes]) -> None:
    for title, axes in panels.items():
        axes.set_title(title)
        axes.set_xlabel("step", color="#6a737c")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=8)


def _svg(figure: Figure) -> str:
    figure.subplots_adjust(0.035, 0.5 / figure.get_figheight(), 0.985, 0.9, wspace=0.28)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]

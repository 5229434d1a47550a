"""Curves of training as SVG text for a page: loss, accuracy, learning rate, speed."""

import io
from collections.abc import Mapping

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MAX_POINTS = 400  # of a line; more cannot be seen
MAX_COMPARED = 10  # runs of one picture
ACCURACIES = {"top1": "-", "top5": "--", "map_class": "-", "map_sample": "--"}  # and line styles
COLORS = ["#4272a8", "#d1793f", "#4b9a6a", "#b4566b", "#8067a8", "#8a7a5c", "#3f9aa8", "#a0a43c"]
LOOK = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "tin",  # the same page from the same runs
    "font.family": ["sans-serif"],
    "font.size": 9,
    "text.parse_math": False,  # a $ in a run's name is a $
    "axes.prop_cycle": matplotlib.cycler(color=COLORS),
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
        An ``<svg>`` element, empty where nothing was recorded.
    """
    if metrics.empty and steps.empty:
        return ""
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(12.2, 2.7))
        loss, accuracy, lr, speed = figure.subplots(1, 4)
        _line(loss, steps, "loss", "steps", color=COLORS[0], alpha=0.35)
        for color, (split, rows) in zip(COLORS, _splits(metrics), strict=False):
            _line(loss, rows, "loss", split, color=color, marker=".")
            for name, style in ACCURACIES.items():
                _line(accuracy, rows, name, f"{split} {name}", 100, color=color, linestyle=style)
        _line(lr, steps, "lr", "")
        _line(speed, steps, "clips_per_s", "")
        titles = ("loss", "accuracy, %", "learning rate", "clips/s")
        _finish(figure, dict(zip(titles, (loss, accuracy, lr, speed), strict=True)))
        return _svg(figure)


def comparison(tables: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]) -> str:
    """Return training loss and measured accuracy of several runs, given by name; or nothing."""
    known = {
        name: metrics
        for name, (metrics, _) in tables.items()
        if "split" in metrics and len(metrics)
    }
    if not 1 < len(known) <= MAX_COMPARED:
        return ""
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(12.2, 3.4))
        loss, accuracy = figure.subplots(1, 2)
        for color, (name, metrics) in zip(2 * COLORS, known.items(), strict=False):
            trained, *measured = (rows for _, rows in _splits(metrics))
            _line(loss, trained, "loss", name, color=color, marker=".")
            best = next((n for n in ("top1", "map_class") if n in metrics), "")
            for rows in measured[:1]:
                if best and rows[best].isna().all():
                    best = "map_class"
                _line(accuracy, rows, best, name, 100, color=color, marker=".")
        _finish(figure, {"training loss": loss, "accuracy, %": accuracy})
        return _svg(figure)


def _splits(metrics: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each split, in the order in which they first appear."""
    if "split" not in metrics:
        return []
    return [(str(split), rows) for split, rows in metrics.groupby("split", sort=False)]


def _line(
    axes: Axes, rows: pd.DataFrame, column: str, label: str, scale: float = 1, **look
) -> None:
    if column not in rows or "step" not in rows:
        return
    rows = rows[["step", column]].dropna()
    rows = rows.iloc[:: max(1, -(-len(rows) // MAX_POINTS))]
    if len(rows):
        axes.plot(rows["step"], scale * rows[column], label=label or None, **look)


def _finish(figure: Figure, panels: Mapping[str, Axes]) -> None:
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

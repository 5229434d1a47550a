"""The report as one page of html that needs nothing else: tables, curves, classes, confusions."""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from tin.evaluation.metrics import label_ranks, map_class
from tin.evaluation.scores import Scores, ScoresError, load, load_result
from tin.reports.curves import comparison, run_curves
from tin.reports.tables import is_number

MAX_BARS = 60  # classes whose bars are shown; of more, the worst and the best
MAX_CONFUSION = 30  # classes of a confusion matrix that can still be read
STYLE = """
:root { --ink: #22282e; --soft: #6a737c; --line: #e3e6e9; --blue: #4272a8; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 2rem 1.5rem 4rem; color: var(--ink);
  background: #fff; font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p, .soft { color: var(--soft); margin: .2rem 0 1rem; } a { color: var(--blue); }
.shared { margin-top: .8rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; }
th, td { padding: .32rem .65rem; border-bottom: 1px solid var(--line); text-align: left;
  white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; } td.number, th.number { text-align: right;
  font-variant-numeric: tabular-nums; }
tbody tr:hover { background: #f6f8fa; }
.state { display: inline-block; border-radius: .7em; padding: .05rem .6rem; background: #eceff2;
  max-width: 26rem; white-space: normal; }
.done { background: #e2f2e6; color: #1c6b33; } .running { background: #e4eefa; color: #245a94; }
.bad { background: #fbe7e4; color: #9c2f20; }
section { border-top: 1px solid var(--line); margin-top: 2.2rem; }
svg { max-width: 100%; height: auto; }
.bars { display: grid; grid-template-columns: max-content minmax(8rem, 28rem) max-content;
  gap: .18rem .7rem; align-items: center; font-size: 13px; }
.bars .soft { margin: 0; }
.bars .track { background: #eef1f4; border-radius: 3px; height: .8rem; }
.bars .fill { background: var(--blue); border-radius: 3px; height: 100%; }
.confusion td { text-align: center; padding: .25rem .4rem; min-width: 2.6rem;
  border: 1px solid #fff; }
.confusion th { border: 0; font-weight: 400; }
.confusion thead th { width: 6.2rem; text-align: center; vertical-align: bottom;
  white-space: normal; overflow-wrap: break-word; }
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Results</title><style>{style}</style></head><body>
<h1>Results</h1><p>{about}</p>
{body}
</body></html>
"""


def page(
    table: pd.DataFrame,
    shared: str,
    notes: Sequence[str],
    runs: Sequence[str],
    curves: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]],
    tests: Mapping[str, Sequence[Path]],
) -> str:
    """Return the page of a table of runs.

    Args:
        table: of texts, with columns run and state.
        shared: what all rows have in common.
        notes: of the recipes, for readers.
        runs: the run of each row, which may stand in several.
        curves: metrics.csv and steps.csv of each run, as read.
        tests: folders of each run's tests, the newest last.
    """
    names = dict(zip(runs, table.get("run", ()), strict=True))
    parts = [f'<div class="scroll">{_table(table, runs)}</div>']
    if shared:
        parts.append(f'<p class="shared">All rows: {escape(shared)}.</p>')
    parts += [f"<p>{escape(note)}</p>" for note in notes]
    if picture := comparison({name: curves[run] for run, name in names.items()}):
        about = "Training loss, and accuracy after each epoch."
        parts.append(f"<h2>Runs compared</h2><p>{about}</p>{picture}")
    for number, (run, name) in enumerate(names.items()):
        body = run_curves(*curves[run]) + _tests(tests[run]) or "<p>Nothing was recorded.</p>"
        parts.append(f'<section id="run-{number}"><h2>{escape(name)}</h2>{body}</section>')
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    about = f"Runs: {len(names)}, rows: {len(table)}, {date}. Accuracies in percent."
    return PAGE.format(style=STYLE, about=about, body="\n".join(parts))


def _tests(folders: Sequence[Path]) -> str:
    """Show all tests that ended, and the newest of them class by class."""
    results = {}
    for folder in folders:
        with contextlib.suppress(ScoresError):  # its row of the table says so
            results[folder] = load_result(folder)
    if not results:
        return ""
    rows = pd.DataFrame([_test_row(folder, result) for folder, result in results.items()])
    table = _table(rows.astype(object).where(rows.notna(), "").astype(str))
    return f'<h3>Tests</h3><div class="scroll">{table}</div>' + _classes(list(results)[-1])


def _test_row(folder: Path, result: dict) -> dict[str, str]:
    measures = result.get("metrics")
    measures = measures if isinstance(measures, dict) else {}
    shown = {
        f"{name} %": f"{100 * value:.2f}"
        for name, value in measures.items()
        if name != "loss" and isinstance(value, float)
    }
    if isinstance(measures.get("loss"), float):
        shown["loss"] = f"{measures['loss']:.4f}"
    facts = ("checkpoint", "num_videos", "clips_per_s", "seconds", "date")
    missing = result.get("missing")
    return {
        "test": folder.name,
        **shown,
        **{name: str(result.get(name, "")) for name in facts},
        "left out": str(len(missing)) if isinstance(missing, list) else "",
    }


def _classes(folder: Path) -> str:
    """Show the newest test class by class."""
    try:
        scores = load(folder)
    except ScoresError as error:
        return f"<p>{escape(str(error))}</p>"
    if not scores.labeled.any():
        return ""
    title = "Average precision" if scores.multi_label else "Accuracy"
    parts = [f"<h3>{title} by class, test {escape(folder.name)}</h3>", _bars(_by_class(scores))]
    if not scores.multi_label and len(scores.classes) <= MAX_CONFUSION:
        parts += ["<h3>Confusion</h3><p>Share of a row's videos that is named as the column.</p>"]
        parts.append(f'<div class="scroll">{_confusion(scores)}</div>')
    return "".join(parts)


def _by_class(scores: Scores) -> list[tuple[str, float, int]]:
    """Return name, accuracy or average precision, and videos of each class that has videos."""
    known, rows = scores.labeled, []
    mean, labels = scores.mean[known], scores.labels[known]
    right = None if scores.multi_label else label_ranks(mean, labels) == 0
    for k, name in enumerate(scores.classes):
        own = labels[:, k] > 0 if scores.multi_label else labels == k
        if own.any():
            if scores.multi_label:
                value = map_class(mean[:, k : k + 1], labels[:, k : k + 1])
            else:
                value = float(right[own].mean())
            rows.append((name, value, int(own.sum())))
    return rows


def _bars(rows: list[tuple[str, float, int]]) -> str:
    note = ""
    if len(rows) > MAX_BARS:
        ordered = sorted(rows, key=lambda row: row[1])
        note = f"<p>The {MAX_BARS // 2} lowest and the {MAX_BARS // 2} highest of {len(rows)}.</p>"
        rows = ordered[: MAX_BARS // 2] + ordered[-MAX_BARS // 2 :]
    lines = [
        f'<span>{escape(name)}</span><div class="track"><div class="fill"'
        f' style="width:{100 * value:.1f}%"></div></div>'
        f'<span class="soft">{100 * value:.1f} % of {videos}</span>'
        for name, value, videos in rows
    ]
    return f'{note}<div class="bars">{"".join(lines)}</div>'


def _confusion(scores: Scores) -> str:
    K = len(scores.classes)
    labels, named = scores.labels[scores.labeled], scores.mean[scores.labeled].argmax(axis=1)
    counts = np.bincount(labels * K + named, minlength=K * K).reshape(K, K)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [f"<th>{escape(name)}</th>" for name in scores.classes]
    rows = [
        f"<tr>{name}{''.join(map(_share, row))}</tr>"
        for name, row in zip(names, shares.tolist(), strict=True)
    ]
    head = f"<thead><tr><th></th>{''.join(names)}</tr></thead>"
    return f'<table class="confusion">{head}<tbody>{"".join(rows)}</tbody></table>'


def _share(share: float) -> str:
    ink = "#fff" if share > 0.55 else "inherit"
    text = f"{100 * share:.0f}" if share else ""
    return f'<td style="background:rgba(66,114,168,{share:.2f});color:{ink}">{text}</td>'


def _table(table: pd.DataFrame, runs: Sequence[str] = ()) -> str:
    """Return a table of texts; with ``runs`` (the run of each row) its names link to sections."""
    kinds = [' class="number"' if is_number(table[column]) else "" for column in table.columns]
    number = {run: i for i, run in enumerate(dict.fromkeys(runs))}

    def row(cells: list[str], tag: str) -> str:
        inner = (f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    rows = [[escape(cell) for cell in cells] for cells in table.to_numpy().tolist()]
    for cells, run in zip(rows, runs, strict=False):
        cells[0] = f'<a href="#run-{number[run]}">{cells[0]}</a>'
        state = table.columns.get_loc("state")
        cells[state] = _badge(cells[state])
    head, body = row(list(table.columns), "th"), "".join(row(cells, "td") for cells in rows)
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _badge(state: str) -> str:
    kind = {"done": "done", "running": "running", "waiting": "", "imported": ""}.get(state, "bad")
    return f'<span class="state {kind}">{state}</span>'

"""Shows in the terminal what `tin doctor` has found: a bar for each part of a run."""

import typer
from rich.bar import Bar
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tin.bench.diagnosis import INPUT, PARTS, Diagnosis, Part

WIDTH = 24
"""Characters of the longest bar."""
MEANINGS: dict[Part, str] = {
    "read": "frames from the shards",
    "decode": "frames to pixels",
    "transfer": "copies to the device",
    "augmentation": "random changes on the device",
    "forward": "",
    "backward": "",
    "all-reduce": "sum of the gradients of all ranks",
    "optimizer": "update of the weights",
    "checkpoint": "one checkpoint",
    "evaluation": "one evaluation of the test split",
}


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print the time and the share of each part, what bounds the run, and what would help."""
    facts = diagnosis.conditions
    times = diagnosis.times
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("part", no_wrap=True, min_width=max(map(len, PARTS)))
    for name in ("alone, ms", "of the run"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    table.add_column("", min_width=WIDTH)
    table.add_column("", no_wrap=True, overflow="ellipsis")  # a narrow terminal cuts this one
    largest = max(diagnosis.shares.values())
    for part in PARTS:
        share = diagnosis.shares[part]
        color = "red" if part == diagnosis.bound else "cyan"
        hidden = "hidden" if part in INPUT and times.of(part) and not share else ""
        table.add_row(
            part,
            f"{1e3 * times.of(part):.1f}",
            f"{100 * share:.1f} %",
            Bar(largest, 0, share, width=WIDTH, color=color),
            hidden or MEANINGS[part],
        )
    console = Console()
    if not console.is_terminal:
        console.width = 120
    console.print(table)
    ranks = "1 rank" if facts.ranks == 1 else f"{facts.ranks} ranks"
    clips = facts.clips * facts.ranks
    typer.echo(
        f"together: {1e3 * times.step:.1f} ms a step of {clips} clips"
        f" ({clips / times.step:.1f} clips/s), of which {1e3 * times.wait:.1f} ms wait for data;"
        f" {ranks}, {facts.hardware}, {facts.precision}"
    )
    if facts.measured_clips * facts.passes < facts.clips:
        typer.echo(
            f"measured with {facts.measured_clips} of {facts.clips // facts.passes} clips a pass"
            " and scaled, because a step takes long"
        )
    console.print(f"[bold]{diagnosis.bound}[/] bounds this run.", highlight=False)
    for advice in diagnosis.advice:
        line = f"at most {advice.gain:.2f} times faster: {escape(advice.text)}"
        console.print(line, highlight=False, soft_wrap=True)
    if not diagnosis.advice:
        typer.echo("No single change makes it more than 10 % faster.")

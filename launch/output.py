"""What `tin submit` prints: the jobs that it submitted, or all that it would submit."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from configs.load import dump
from launch.record import SubmittedJob
from launch.status import RunStatus
from launch.submission.estimate import estimate
from launch.submission.plan import Submission, dry_run

WIDTH = 200  # of a table that goes to a file
COLORS = {"done": "green", "running": "cyan", "pending": "yellow", "waiting": "yellow"}


def print_jobs(plan: Submission, jobs: Sequence[tuple[Path, SubmittedJob]]) -> None:
    """Print the jobs that were submitted, and what to type next."""
    table = _table("run", "stage", "job", "waits for")
    for run, job in jobs:
        after = job.after.replace("singleton", "").strip(",")
        table.add_row(run.name, job.stage, job.id, after)
    _print(table)
    typer.echo(f"logs: {jobs[0][1].logs}" if jobs else "")
    typer.echo(f"next: tin status {plan.folder}; tin logs -f {jobs[0][0]}")


def print_statuses(statuses: Sequence[RunStatus], problem: str) -> None:
    """Print where runs stand, and below why they wait or failed."""
    table = _table("run", "stage", "state", "nodes", "step", "epoch", "clips/s", "data wait")
    for name in ("saved", "restarts"):
        table.add_column(name)
    for column in table.columns[4:]:
        column.justify = "right"
    for state in statuses:
        color = COLORS.get(state.state, "red")
        cells = [state.step, state.epoch, state.clips_per_s, state.data_wait, state.saved]
        name = f"[{color}]{state.state}[/]"
        table.add_row(state.run.name, state.stage, name, state.nodes, *cells, str(state.restarts))
    _print(table)
    for state in statuses:
        if state.why:
            typer.echo(f"{state.run.name}: {state.why}")
    if problem:
        typer.echo(f"Slurm does not answer, this is what the files say ({problem})", err=True)


def print_dry_run(plan: Submission) -> None:
    """Print each batch script, the settings and an estimate; submit nothing."""
    for step, text, answer in dry_run(plan):
        many = f", an array of {len(step.jobs)}" if len(step.jobs) > 1 else ""
        ahead = f", {step.cluster.chain} times ahead" if step.cluster.chain else ""
        typer.echo(f"# ---- {step.stage}{many}{ahead}")
        typer.echo(f"{text}\n# {answer}\n" if text else f"# {answer}\n")
    for run, config in plan.configs.items():
        typer.echo(f"# ---- settings of {run}\n{dump(config)}")
    for step in plan.steps:
        config = next(iter(plan.configs.values()))
        if step.stage == "train":
            found = estimate(config, step.cluster)
            lines = found.lines(config) if found else ["none: the dataset does not exist yet"]
            typer.echo("# ---- estimate (launch/estimate.py says what it assumes)")
            typer.echo("\n".join(f"# {line}" for line in lines))


def print_check(rows: Iterable[tuple[str, str, str]]) -> None:
    """Print what `tin check` found."""
    console = Console()
    for name, found, advice in rows:
        line = f"[bold]{name:14}[/] {escape(found)}"
        console.print(line, highlight=False, soft_wrap=True)
        if advice:
            line = f"{'':14} [yellow]{escape(advice)}[/]"
            console.print(line, highlight=False, soft_wrap=True)


def _table(*names: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    return table


def _print(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table)

"""Tables and texts that commands print about submissions, runs and this machine."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from configs.load import dump
from configs.schema import Config
from launch.check import Row
from launch.record import SubmittedJob
from launch.status import RunState, RunStatus
from launch.submission.estimate import estimate
from launch.submission.plan import Submission, dry_run

COLORS: dict[RunState, str] = {
    "done": "green",
    "running": "cyan",
    "pending": "yellow",
    "waiting": "yellow",
}
OTHER_COLOR = "red"


def print_jobs(
    submission: Submission, jobs: Sequence[tuple[Path, SubmittedJob]], defaults: Sequence[str]
) -> None:
    """Print the submitted jobs, each with its run, and which commands to type next.

    Args:
        submission: what was submitted.
        jobs: the jobs, each with the folder of its run.
        defaults: variables `SBATCH_*` of the environment that the jobs use.
    """
    for default in defaults:
        typer.echo(f"from the environment, because the cluster file is silent: {default}")
    table = _table("run", "stage", "job", "waits for")
    for run_dir, job in jobs:
        after = job.after.replace("singleton", "").strip(",")
        table.add_row(escape(run_dir.name), job.stage, job.id, after)
    _print(table)
    first_run_dir, first_job = jobs[0]
    typer.echo(f"logs: {first_job.logs}")
    typer.echo(f"next: tin status {submission.folder}; tin logs -f {first_run_dir}")


def print_statuses(statuses: Sequence[RunStatus], problem: str) -> None:
    """Print a table of runs and, below it, why they are queued or have failed.

    Args:
        statuses: one for each run.
        problem: why Slurm did not answer; empty if it did.
    """
    table = _table("run", "stage", "state", "nodes")
    for name in ("step", "epoch", "clips/s", "data wait", "saved", "restarts"):
        table.add_column(name, justify="right", no_wrap=True, overflow="ellipsis")
    for status in statuses:
        color = COLORS.get(status.state, OTHER_COLOR)
        table.add_row(
            escape(status.run_dir.name),
            status.stage,
            f"[{color}]{status.state}[/]",
            escape(status.nodes),
            status.step,
            status.epoch,
            status.clips_per_s,
            status.data_wait,
            status.saved,
            str(status.restarts),
        )
    _print(table)
    for status in statuses:
        if status.why:
            typer.echo(f"{status.run_dir.name}: {status.why}")
    if problem:
        typer.echo(
            f"Slurm does not answer ({problem}); the table shows what the run folders tell",
            err=True,
        )


def print_dry_run(submission: Submission) -> None:
    """Print each batch script, the settings and an estimate; submit nothing."""
    for step, script, answer in dry_run(submission):
        many = f", an array of {len(step.jobs)}" if len(step.jobs) > 1 else ""
        chain = f", {step.cluster.chain} jobs one after the other" if step.cluster.chain else ""
        typer.echo(f"# ---- {step.stage}{many}{chain}")
        if script:
            typer.echo(script)
        typer.echo(f"# {answer}\n")
    for run_dir, config in submission.configs.items():
        typer.echo(f"# ---- settings of {run_dir}\n{dump(config)}")
    for step in submission.steps:
        if step.stage == "train":
            first_config = next(iter(submission.configs.values()))
            found = estimate(first_config, step.cluster)
            lines = ["none: the dataset does not exist yet"]
            if found:
                lines = found.lines(first_config)
            typer.echo("# ---- estimate (launch/submission/estimate.py states its assumptions)")
            typer.echo("\n".join(f"# {line}" for line in lines))


def print_recipes(configs: Iterable[Config]) -> None:
    """Print a table of recipes: dataset, network, frames and the published number."""
    table = _table("recipe", "dataset", "network", "temporal", "frames", "published")
    for config in configs:
        published = ""
        if config.published is not None:
            published = f"{100 * config.published:.1f} % {config.published_metric}"
        table.add_row(
            config.recipe,
            config.data.dataset,
            config.model.arch,
            config.model.temporal,
            str(config.clip.num_segments),
            published,
        )
    _print(table)
    typer.echo("`tin config RECIPE` prints all settings of one.")


def print_check(rows: Iterable[Row]) -> None:
    """Print what `tin check` found."""
    console = Console()
    for row in rows:
        line = f"[bold]{row.name:14}[/] {escape(row.found)}"
        console.print(line, highlight=False, soft_wrap=True)
        if row.advice:
            line = f"{'':14} [yellow]{escape(row.advice)}[/]"
            console.print(line, highlight=False, soft_wrap=True)


def _table(*names: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    return table


def _print(table: Table) -> None:
    """Print a table: cut to the width of a terminal, whole into a pipe or a file."""
    console = Console()
    if not console.is_terminal:
        console.width = sys.maxsize  # the table takes only as much as its cells need
    console.print(table)

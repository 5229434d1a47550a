"""Tables and texts that commands print about submissions, runs and this machine."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from configs.load import differences, dump
from configs.schema import Config
from launch.check import Row
from launch.record import SubmittedJob
from launch.run_states import RunState
from launch.status import RunStatus

if TYPE_CHECKING:  # these import submitit, which `tin status` does not need
    from launch.submission.steps import Step, Submission

COLORS: dict[RunState, str] = {
    "done": "green",
    "running": "cyan",
    "pending": "yellow",
    "waiting": "yellow",
}
OTHER_COLOR = "red"
NUMBERS = (
    "elapsed",
    "left",
    "step",
    "epoch",
    "metric",
    "best",
    "clips/s",
    "data wait",
    "saved",
    "restarts",
)
"""Columns of the status of runs that are numbers or times."""


def print_jobs(
    submission: "Submission", jobs: Sequence[tuple[Path, SubmittedJob]], defaults: Sequence[str]
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


def print_statuses(
    statuses: Sequence[RunStatus], problem: str, below: Path | None = None, *, clear: bool = False
) -> None:
    """Print a table of runs and, below it, why they are queued or have failed.

    Args:
        statuses: one for each run.
        problem: why Slurm did not answer; empty if it did.
        below: folder whose path the names of the runs leave out; without it, only their last part
            is printed.
        clear: whether the table takes the place of what a terminal shows.
    """
    if clear:
        Console().clear()
    table = _table("run", "stage", "state", "job", "nodes")
    names = {
        status.run_dir: str(status.run_dir.relative_to(below)) if below else status.run_dir.name
        for status in statuses
    }
    for name in NUMBERS:
        table.add_column(name, justify="right", no_wrap=True, overflow="ellipsis")
    for status in statuses:
        color = COLORS.get(status.state, OTHER_COLOR)
        table.add_row(
            escape(names[status.run_dir]),
            status.stage,
            f"[{color}]{status.state}[/]",
            status.job,
            escape(status.nodes),
            status.elapsed,
            status.left,
            status.step,
            status.epoch,
            status.metric,
            status.best,
            status.clips_per_s,
            status.data_wait,
            status.saved,
            str(status.restarts),
        )
    _print(table)
    for status in statuses:
        if status.why:
            typer.echo(f"{names[status.run_dir]}: {status.why}")
    if problem:
        typer.echo(problem, err=True)


def print_dry_run(submission: "Submission") -> None:
    """Print the batch script of each step, the settings and an estimate; submit nothing.

    The runs of a sweep share a script, and the table of a sweep shows only where its runs differ.
    """
    # These import NumPy, which `tin status` and `tin list` do not need.
    from launch.submission.estimate import estimate
    from launch.submission.plan import defaults, dry_run

    for step, script, answer in dry_run(submission):
        many = f", an array of {len(step.jobs)}" if len(step.jobs) > 1 else ""
        chain = f", {step.cluster.chain} jobs one after the other" if step.cluster.chain else ""
        typer.echo(f"# ---- {step.stage}{many}{chain}")
        if script:
            typer.echo(script)
        typer.echo(f"# {answer}")
        typer.echo(f"# {_most_hours(step)}\n")
    for default in defaults(submission):
        typer.echo(f"# from the environment, because the cluster file is silent: {default}")
    first_run_dir, first_config = next(iter(submission.configs.items()))
    typer.echo(f"# ---- settings of {first_run_dir}\n{dump(first_config)}")
    if len(submission.configs) > 1:
        typer.echo(f"# ---- {len(submission.configs)} runs, which differ from the first one in:")
        for run_dir, config in submission.configs.items():
            typer.echo(f"# {run_dir.name}: {', '.join(differences(first_config, config)) or '-'}")
    for step in submission.steps:
        if step.stage == "train":
            found = estimate(first_config, step.cluster)
            lines = ["none: the dataset does not exist yet"]
            if found:
                lines = found.lines(first_config, step.cluster, len(submission.configs))
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


def _most_hours(step: "Step") -> str:
    """Return how many hours the jobs of a step take at most between two requeues."""
    num_jobs = len(step.jobs) * max(step.cluster.chain, 1)
    hours = num_jobs * step.cluster.time_min / 60
    gpus = step.cluster.nodes * step.cluster.num_gpus
    unit = "GPU-hours" if gpus else "hours of a node"
    amount = hours * (gpus or step.cluster.nodes)
    return f"at most {amount:.1f} {unit} until the time limit of {step.cluster.time_min} min"


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

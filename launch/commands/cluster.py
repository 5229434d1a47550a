"""Verbs of the cluster: submit, status, logs and cancel."""

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs, or folders of runs.")]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    for verb in (submit, status, logs, cancel):
        app.command()(verb)


def submit(
    stages: Annotated[
        str, typer.Argument(metavar="STAGE[,STAGE]", help="shard, train, test or report.")
    ],
    recipe: Annotated[str, typer.Argument(help="A recipe file or the name of one.")],
    run: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the run.")],
    cluster: Annotated[
        str, typer.Option(metavar="C", help="local, debug, or a cluster file or its name.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[section.key=value ...]", help="Lists make a sweep."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be submitted; submit nothing.")
    ] = False,
) -> None:
    """Run stages as jobs, one after the other.

    A list of values (optim.lr=0.01,0.02 train.seed=0,1,2) is a sweep: one array, and each
    combination has a run folder of its own below --run.
    """
    from launch.output import print_dry_run, print_jobs
    from launch.submission.plan import make_submission
    from launch.submission.plan import submit as submit_plan

    plan = make_submission(stages, recipe, run, cluster, settings or [])
    if dry_run:
        print_dry_run(plan)
    else:
        print_jobs(plan, submit_plan(plan))


def status(runs: Runs) -> None:
    """Print where runs stand: state, nodes, step, speed, restarts, why they wait."""
    from launch.output import print_statuses
    from launch.status import find_runs, statuses

    print_statuses(*statuses(find_runs(runs)))


def logs(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Wait for more.")] = False,
) -> None:
    """Print what rank 0 of each job of a run logged, every attempt."""
    from configs.load import run_path
    from launch.status import print_log

    print_log(run_path(run), follow)


def cancel(runs: Runs) -> None:
    """Cancel the jobs of runs. A run that was cancelled can be continued."""
    from launch.status import cancel, find_runs

    for run in find_runs(runs):
        typer.echo(f"{run}: {', '.join(cancel(run)) or 'no job waits or runs'}")

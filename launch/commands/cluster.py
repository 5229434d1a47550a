"""The commands of the cluster: submit, status, list, logs and cancel."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.commands.arguments import Json, RunDir, RunDirOption, RunDirs

if TYPE_CHECKING:
    from launch.status import RunStatus

WATCH_S = 5.0
"""Slurm is asked at most this often."""


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    for command in (submit, status, logs, cancel):
        app.command()(command)
    app.command("list")(list_runs)


def submit(
    stages: Annotated[
        str, typer.Argument(metavar="STAGE[,STAGE]", help="shard, train, test, predict or report.")
    ],
    run_dir: RunDirOption,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [section.key=value ...]",
            help="A recipe, and settings; a list of values makes a sweep. Without a recipe, the"
            " run is submitted again with the settings that it has.",
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="C",
            help="local, debug, another name in configs/clusters, or a cluster file. Without it,"
            " the run keeps its cluster.",
        ),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Submit the failed runs of a sweep again.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be submitted; submit nothing.")
    ] = False,
) -> None:
    """Run stages as jobs, one after the other.

    A list of values (optim.lr=0.01,0.02 train.seed=0,1,2) makes a sweep: one array of jobs, in
    which each combination has its own run folder below --run.
    """
    from launch.output import print_dry_run, print_jobs
    from launch.submission.plan import defaults, make_submission
    from launch.submission.plan import submit as submit_jobs
    from launch.usage import check_recipe, check_stages

    settings = list(arguments or [])
    recipe = settings.pop(0) if settings and "=" not in settings[0] else None
    if recipe is not None:
        check_stages(stages, recipe)
        check_recipe(recipe, run_dir, f"submit {stages}")
    submission = make_submission(stages, recipe, run_dir, cluster, settings, failed=failed)
    if dry_run:
        print_dry_run(submission)
    else:
        used = defaults(submission)
        print_jobs(submission, submit_jobs(submission), used)


def status(
    run_dirs: RunDirs,
    watch: Annotated[
        bool, typer.Option("--watch", help="Print the status again every few seconds.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the status of runs: state, job, times, step, metrics, and why they are queued."""
    from launch.find import find_runs
    from launch.output import print_statuses
    from launch.status import statuses

    while True:
        found, problem = statuses(find_runs(run_dirs))
        if as_json:
            _print_json(found, problem)
        else:
            print_statuses(found, problem, clear=watch)
        if not watch:
            return
        time.sleep(WATCH_S)


def list_runs(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="Look here instead of in `runs` of site.yaml."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List all runs at any depth below the site's folder of runs, with their status."""
    from configs.load import load_site
    from launch.find import all_runs
    from launch.output import print_statuses
    from launch.status import statuses

    root = folder or Path(load_site().runs or ".").expanduser()
    found, problem = statuses(all_runs(root))
    if as_json:
        _print_json(found, problem)
    else:
        print_statuses(found, problem, below=root)


def logs(
    run_dir: RunDir,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Print new lines until the jobs end.")
    ] = False,
    rank: Annotated[int, typer.Option("--rank", metavar="N", help="Another rank than 0.")] = 0,
    all_ranks: Annotated[bool, typer.Option("--all", help="All ranks.")] = False,
    attempt: Annotated[
        int | None,
        typer.Option("--attempt", metavar="N", help="Only start N of the jobs, from 1 on."),
    ] = None,
) -> None:
    """Print the logs of rank 0 of a run's jobs, with all attempts, or those of other ranks."""
    from configs.load import run_path
    from launch.logs import print_attempt, print_logs

    chosen = None if all_ranks else rank
    if attempt is None:
        print_logs(run_path(run_dir), follow, chosen)
    else:
        print_attempt(run_path(run_dir), attempt, chosen)


def cancel(run_dirs: RunDirs) -> None:
    """Cancel the jobs of runs. A canceled run can be resumed."""
    from launch.find import find_runs
    from launch.live_jobs import cancel as cancel_jobs

    for run_dir, cancelled in cancel_jobs(find_runs(run_dirs)).items():
        typer.echo(f"{run_dir}: {', '.join(cancelled) or 'no queued or running job'}")


def _print_json(found: "Sequence[RunStatus]", problem: str) -> None:
    """Print the status of runs as JSON."""
    rows = [{**asdict(status), "run_dir": str(status.run_dir)} for status in found]
    typer.echo(json.dumps({"runs": rows, "problem": problem}, indent=1, default=str))

"""The commands of the cluster: submit, status, logs and cancel."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from launch.commands.arguments import Json, Recipe, RunDir, RunDirOption, RunDirs


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    for command in (submit, status, logs, cancel):
        app.command()(command)


def submit(
    stages: Annotated[
        str, typer.Argument(metavar="STAGE[,STAGE]", help="shard, train, test, predict or report.")
    ],
    recipe: Recipe,
    run_dir: RunDirOption,
    cluster: Annotated[
        str,
        typer.Option(
            metavar="C", help="local, debug, another name in configs/clusters, or a cluster file."
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[section.key=value ...]", help="Settings; a list of values makes a sweep."
        ),
    ] = None,
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

    check_stages(stages, recipe)
    check_recipe(recipe, run_dir, f"submit {stages}")
    submission = make_submission(stages, recipe, run_dir, cluster, settings or [])
    if dry_run:
        print_dry_run(submission)
    else:
        used = defaults(submission)
        print_jobs(submission, submit_jobs(submission), used)


def status(run_dirs: RunDirs, as_json: Json = False) -> None:
    """Print the status of runs: state, nodes, step, speed, restarts, and why they are queued."""
    from launch.output import print_statuses
    from launch.status import find_runs, statuses

    found, problem = statuses(find_runs(run_dirs))
    if as_json:
        rows = [{**asdict(status), "run_dir": str(status.run_dir)} for status in found]
        typer.echo(json.dumps({"runs": rows, "problem": problem}, indent=1))
        return
    print_statuses(found, problem)


def logs(
    run_dir: RunDir,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Print new lines until the jobs end.")
    ] = False,
) -> None:
    """Print the logs of rank 0 of a run's jobs, with all attempts."""
    from configs.load import run_path
    from launch.live_jobs import print_logs

    print_logs(run_path(run_dir), follow)


def cancel(run_dirs: RunDirs) -> None:
    """Cancel the jobs of runs. A canceled run can be resumed."""
    from launch.live_jobs import cancel as cancel_jobs
    from launch.status import find_runs

    for run_dir, cancelled in cancel_jobs(find_runs(run_dirs)).items():
        typer.echo(f"{run_dir}: {', '.join(cancelled) or 'no queued or running job'}")

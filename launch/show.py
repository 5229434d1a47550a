"""What `tin submit` prints: the jobs that it submitted, or all that it would submit."""

from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Table

from configs.load import dump
from launch.record import Job
from launch.submit import Plan, dry_run


def print_jobs(plan: Plan, jobs: Sequence[Job]) -> None:
    """Print the jobs that were submitted, and what to type next."""
    table = Table("stage", "job", "waits for", "log", box=None)
    for job in jobs:
        table.add_row(
            job.stage, job.id, job.after.replace("singleton", "").strip(","), str(job.log_files())
        )
    Console().print(table)
    typer.echo(f"tin status {plan.folder}    tin logs {plan.folder} -f    tin cancel {plan.folder}")


def print_dry_run(plan: Plan) -> None:
    """Print each batch script, the settings and an estimate; submit nothing."""
    for step, text, answer in dry_run(plan):
        typer.echo(
            f"# ---- {step.stage}: {len(step.jobs)} jobs"
            if len(step.jobs) > 1
            else f"# ---- {step.stage}"
        )
        typer.echo(text)
        typer.echo(f"# {answer}\n")
    for run, config in plan.configs.items():
        typer.echo(f"# ---- settings of {run}\n{dump(config)}")

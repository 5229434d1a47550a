"""The commands train and config."""

import os
import shlex
from typing import Annotated

import typer

from launch.commands.arguments import RunDirOption, Settings

TRAIN_SECTIONS = ("data", "clip", "augment", "model", "optim", "train", "test", "predict", "run")
"""Sections that `tin train` or a later step of the run uses; `shard` belongs to the dataset."""


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    for command in (train, config):
        app.command()(command)


def train(
    run_dir: RunDirOption,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [section.key=value ...]",
            help="A recipe file, or a name in configs/recipes, and settings to override. Without"
            " a recipe, the run is resumed.",
        ),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over", help="End a process that trains this run, and resume from there."
        ),
    ] = False,
) -> None:
    """Train a model from shards, or resume the training of an existing run."""
    from configs.load import run_path
    from launch.errors import log_to_file
    from launch.usage import check_recipe, check_sections
    from tin.runs.fit import check_training
    from tin.runs.folder import Run
    from tin.runs.living import check_not_alive
    from tin.runs.settings import resolve

    folder = run_path(run_dir)
    settings = list(arguments or [])
    recipe = None
    if settings and "=" not in settings[0]:
        recipe = settings.pop(0)
        check_recipe(recipe, run_dir, "train")
    check_sections("tin train", settings, TRAIN_SECTIONS)
    config = resolve(recipe, folder, settings)
    if not take_over and _is_typed_by_hand():
        check_not_alive(Run(folder))
    if not Run(folder).done().get("train"):
        check_training(config, is_new=not Run(folder).exists())
    # Everything that can be checked without torch is checked: importing it takes seconds.
    from tin.training.trainer import train as train_run

    if os.environ.keys() & {"SLURM_JOB_ID", "SUBMITIT_EXECUTOR"} or not _is_first_rank():
        train_run(config, folder)
        return
    with log_to_file(Run(folder).typed_log):
        train_run(config, folder)
    typer.echo(f"training is complete; next: tin test {shlex.quote(str(run_dir))}")


def _is_first_rank() -> bool:
    return int(os.environ.get("RANK") or 0) == 0


def _is_typed_by_hand() -> bool:
    """Return whether a person started this command, and not a job or a restart by torchrun.

    Of several ranks, only rank 0 asks: the others might find the attempt of their own rank 0.
    """
    is_job = "SLURM_JOB_ID" in os.environ or "SUBMITIT_EXECUTOR" in os.environ
    is_restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0
    return not is_job and not is_restart and _is_first_rank()


def config(
    recipe: Annotated[
        str, typer.Argument(metavar="[RECIPE]", help="A recipe file, or a name in configs/recipes.")
    ] = "",
    settings: Settings = None,
) -> None:
    """Print all settings of a recipe, or a table of the recipes."""
    from configs.load import RECIPES, dump, load

    if recipe:
        typer.echo(dump(load(recipe, settings or [])), nl=False)
        return
    from launch.output import print_recipes

    print_recipes([load(path) for path in sorted(RECIPES.glob("*.yaml"))])

"""The commands train and config."""

from typing import Annotated

import typer

from launch.commands.arguments import Recipe, RunDirOption, Settings


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
) -> None:
    """Train a model from shards, or resume the training of an existing run."""
    from configs.load import run_path
    from tin.runs.settings import resolve
    from tin.training.trainer import train as train_run

    folder = run_path(run_dir)
    settings = list(arguments or [])
    recipe = None
    if settings and "=" not in settings[0]:
        recipe = settings.pop(0)
    train_run(resolve(recipe, folder, settings), folder)


def config(recipe: Recipe, settings: Settings = None) -> None:
    """Print all settings of a recipe."""
    from configs.load import dump, load

    typer.echo(dump(load(recipe, settings or [])), nl=False)

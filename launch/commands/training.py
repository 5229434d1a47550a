"""The verbs train and config."""

from pathlib import Path
from typing import Annotated

import typer

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[section.key=value ...]", help="Settings that come last."),
]
RunOption = Annotated[Path, typer.Option("--run", metavar="DIR", help="Folder of the run.")]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    for command in (train, config):
        app.command()(command)


def train(
    run: RunOption,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [section.key=value ...]",
            help="A recipe file or the name of one; none continues the run.",
        ),
    ] = None,
) -> None:
    """Train a model from shards; in an existing run folder, continue it."""
    from configs.load import run_path
    from tin.runs.settings import resolve
    from tin.training.trainer import train as train_run

    folder, words = run_path(run), list(words or [])
    recipe = words.pop(0) if words and "=" not in words[0] else None
    train_run(resolve(recipe, folder, words), folder)


def config(
    recipe: Annotated[str, typer.Argument(help="A recipe file or the name of one.")],
    settings: Settings = None,
) -> None:
    """Print all settings of a recipe."""
    from configs.load import dump, load

    typer.echo(dump(load(recipe, settings or [])), nl=False)

"""The command line. Each verb imports what it needs when it runs: `tin --help` stays quick."""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from launch import cluster_commands, result_commands, tool_commands
from launch.errors import INTERRUPTED, exit_code, explain, set_up_libraries, set_up_logging

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[section.key=value ...]", help="Settings that come last."),
]
RunOption = Annotated[Path, typer.Option("--run", metavar="DIR", help="Folder of the run.")]


def main() -> None:
    """Run the command line; leave with 0, 1, 2, 3 or 75 as DESIGN.md section 4 says."""
    set_up_libraries()
    debug = "--debug" in sys.argv
    try:
        app([word for word in sys.argv[1:] if word != "--debug"])
    except Exception as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"tin: {explain(error)}", err=True)
        sys.exit(exit_code(error))


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
) -> None:
    """Train video action recognition with the Temporal Interlacing Network."""
    set_up_logging(int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0))


@app.command()
def shard(
    source: Annotated[Path, typer.Argument(help="Folder of videos or of frame folders.")],
    dataset: Annotated[Path, typer.Argument(help="Folder of shards to write.")],
    settings: Settings = None,
    labels: Annotated[
        str, typer.Option(metavar="CSV", help="path,labels,split[,key][,group]")
    ] = "",
    form: Annotated[
        str,
        typer.Option(
            "--dataset",
            metavar="NAME",
            help="Annotations as distributed: sthv1, sthv2, jester, kinetics, ucf101, hmdb51, mit,"
            " mmit, lists (of TIN); or direction.",
        ),
    ] = "",
    annotations: Annotated[
        str, typer.Option(metavar="PATH", help="Their file or folder, if not SOURCE.")
    ] = "",
    part: Annotated[
        int | None, typer.Option(metavar="I", help="Which part this is, from 0.")
    ] = None,
    parts: Annotated[int | None, typer.Option(metavar="N", help="Parts in all.")] = None,
) -> None:
    """Turn a folder of videos into a dataset of shards.

    Without --labels or --dataset each folder of videos is a class. One part of several writes
    its own shards only; `tin data merge` then joins them. In a Slurm array the part is the task.
    """
    from configs.load import load
    from preprocess.convert import shard as convert

    named = {
        "source": str(source),
        "labels": labels,
        "format": form,
        "annotations": annotations,
    }
    given = [f"shard.{key}={json.dumps(value)}" for key, value in named.items() if value]
    if parts is None:
        parts = int(os.environ.get("SLURM_ARRAY_TASK_COUNT", 0)) or None
    if part is None and parts:
        first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", 0))
        part = int(os.environ.get("SLURM_ARRAY_TASK_ID", first)) - first
    if parts:
        given.append(f"shard.parts={parts}")
    config = load(None, [*(settings or []), *given])
    try:
        result = convert(config, dataset, part)
    except KeyboardInterrupt:
        typer.echo(
            f"tin: {dataset}: stopped; finished shards are kept, the same command goes on", err=True
        )
        raise typer.Exit(INTERRUPTED) from None
    name = "quarantine.csv" if part is None else "quarantine"
    tool_commands.tell_quarantine(result, dataset, name)


@app.command()
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
    from tin.run import resolve
    from tin.train import train as train_run

    folder, words = run_path(run), list(words or [])
    recipe = words.pop(0) if words and "=" not in words[0] else None
    train_run(resolve(recipe, folder, words), folder)


@app.command()
def config(
    recipe: Annotated[str, typer.Argument(help="A recipe file or the name of one.")],
    settings: Settings = None,
) -> None:
    """Print all settings of a recipe."""
    from configs.load import dump, load

    typer.echo(dump(load(recipe, settings or [])), nl=False)


result_commands.add_to(app)
tool_commands.add_to(app)
cluster_commands.add_to(app)

"""The verbs that make and check datasets: shard and data."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from configs.errors import BAD_DATA, INTERRUPTED

if TYPE_CHECKING:
    from preprocess.convert import ShardResult

Dataset = Annotated[Path, typer.Argument(help="Folder of a dataset.")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[section.key=value ...]", help="Settings that come last."),
]

data = typer.Typer(no_args_is_help=True, help="Check, join or generate data.")


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.command()(shard)
    app.add_typer(data, name="data")


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
    tell_quarantine(result, dataset, name)


@data.command()
def verify(dataset: Dataset) -> None:
    """Read every byte of a dataset and name what is wrong."""
    from preprocess.verify import verify as problems_of

    problems = problems_of(dataset)
    for problem in problems:
        typer.echo(problem)
    typer.echo(f"{dataset}: {len(problems)} problems" if problems else f"{dataset}: all is well")
    raise typer.Exit(1 if problems else 0)


@data.command()
def merge(dataset: Dataset) -> None:
    """Join the parts that `tin shard --part` wrote."""
    from preprocess.convert import merge as merge_parts

    tell_quarantine(merge_parts(dataset), dataset, "quarantine.csv")


def tell_quarantine(result: "ShardResult", dataset: Path, name: str) -> None:
    """Say what became of the videos; leave with 3 where too many could not be used."""
    typer.echo(f"{dataset}: {result}")
    if result.too_many_bad:
        typer.echo(
            f"tin: too many videos could not be used, {dataset / name} says why; the others are"
            " stored, and can be trained on if that is all right",
            err=True,
        )
        raise typer.Exit(BAD_DATA)


@data.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder of videos to write.")],
    train: Annotated[int, typer.Option(metavar="N", help="Videos of split train.")] = 1600,
    val: Annotated[int, typer.Option(metavar="N", help="Videos of split val.")] = 400,
    size: Annotated[int, typer.Option(metavar="PIXELS", help="Side of a video.")] = 64,
    seed: Annotated[int, typer.Option(help="Other numbers, other videos.")] = 0,
    motions: Annotated[
        int, typer.Option(metavar="N", help="Motions at a time: several are several labels.")
    ] = 1,
) -> None:
    """Write videos of shapes that move in eight ways, with their labels.csv."""
    from preprocess.motions import make_motions

    make_motions(folder, train=train, val=val, size=size, seed=seed, motions=motions)
    typer.echo(folder / "labels.csv")

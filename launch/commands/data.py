"""The commands that make and check datasets: shard and data."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from configs.errors import BAD_DATA, FAILED, INTERRUPTED
from launch.commands.arguments import Dataset, Settings

if TYPE_CHECKING:
    from preprocess.convert import ShardResult

data = typer.Typer(no_args_is_help=True, help="Check or merge a dataset, or make demo videos.")


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.command()(shard)
    app.add_typer(data, name="data")


def shard(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="Folder of videos, or of one folder of frames for each video."
        ),
    ],
    dataset: Dataset,
    settings: Settings = None,
    labels: Annotated[
        str,
        typer.Option(
            metavar="CSV", help="Labels, with the columns path,labels,split[,key][,group]."
        ),
    ] = "",
    annotation_format: Annotated[
        str,
        typer.Option(
            "--dataset",
            metavar="NAME",
            help="Read the annotation files of a published dataset: sthv1, sthv2, jester,"
            " kinetics, ucf101, hmdb51, mit, mmit, lists (of TIN), or direction.",
        ),
    ] = "",
    annotations: Annotated[
        str,
        typer.Option(
            metavar="PATH", help="File or folder of the annotations, if it is not in SOURCE."
        ),
    ] = "",
    part: Annotated[
        int | None, typer.Option(metavar="I", help="Write this part only; the first part is 0.")
    ] = None,
    parts: Annotated[int | None, typer.Option(metavar="N", help="Number of parts.")] = None,
) -> None:
    """Convert a folder of videos into a dataset of shards.

    Without --labels or --dataset, each folder of videos is a class. With --part, only the shards
    of one part are written; run `tin data merge` after all parts. In a Slurm array, --part and
    --parts default to the place of the task in the array.
    """
    from configs.load import load
    from preprocess.convert import shard as convert

    if parts is None:
        parts = int(os.environ.get("SLURM_ARRAY_TASK_COUNT", 0)) or None
    if part is None and parts:
        first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", 0))
        part = int(os.environ.get("SLURM_ARRAY_TASK_ID", first)) - first
    options = {
        "source": str(source),
        "labels": labels,
        "format": annotation_format,
        "annotations": annotations,
        "parts": parts,
    }
    given = [f"shard.{key}={json.dumps(value)}" for key, value in options.items() if value]
    config = load(None, [*(settings or []), *given])
    try:
        result = convert(config, dataset, part)
    except KeyboardInterrupt:
        typer.echo(
            f"tin: {dataset}: interrupted. Finished shards are kept; run the same command again to"
            " resume.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    _report_quarantine(result, dataset, "quarantine.csv" if part is None else "quarantine")


@data.command()
def verify(
    dataset: Dataset,
    sample: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            min=0.0,
            max=1.0,
            help="Read only this share of the shards, drawn at random each time; for example 0.05"
            " in a nightly job.",
        ),
    ] = 1.0,
) -> None:
    """Read every byte of a dataset and list what is damaged or missing."""
    from preprocess.verify import verify as find_problems

    problems = find_problems(dataset, sample)
    for problem in problems:
        typer.echo(problem)
    if problems:
        typer.echo(f"{dataset}: {len(problems)} problems")
        raise typer.Exit(FAILED)
    part = f" in the tables and {100 * sample:g} % of the shards" if sample < 1 else ""
    typer.echo(f"{dataset}: no problems{part}")


@data.command()
def merge(dataset: Dataset) -> None:
    """Complete a dataset after `tin shard --part` has written all of its parts."""
    from preprocess.convert import merge as merge_parts

    _report_quarantine(merge_parts(dataset), dataset, "quarantine.csv")


@data.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the new videos.")],
    train: Annotated[int, typer.Option(metavar="N", help="Videos for training.")] = 1600,
    val: Annotated[int, typer.Option(metavar="N", help="Videos for validation.")] = 400,
    size: Annotated[int, typer.Option(metavar="PIXELS", help="Width and height of a video.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.")] = 0,
    motions: Annotated[
        int, typer.Option(metavar="N", help="Simultaneous motions of a shape; each is a label.")
    ] = 1,
) -> None:
    """Make videos of shapes that move in eight ways, with a labels.csv."""
    from preprocess.motions import make_motions

    make_motions(folder, train=train, val=val, size=size, seed=seed, motions=motions)
    typer.echo(folder / "labels.csv")


def _report_quarantine(result: "ShardResult", dataset: Path, name: str) -> None:
    """Print how many videos are stored; exit with 3 if too many are in quarantine.

    Args:
        result: counts of videos.
        dataset: folder of the dataset.
        name: file or folder in it that lists the videos in quarantine.
    """
    typer.echo(f"{dataset}: {result}")
    if result.too_many_bad:
        typer.echo(
            f"tin: too many videos could not be used; the reasons are in {dataset / name}. The"
            " dataset is otherwise complete; train on it if the loss is acceptable.",
            err=True,
        )
        raise typer.Exit(BAD_DATA)

"""The commands that make and check datasets: shard and data."""

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from configs.errors import BAD_DATA, FAILED, INTERRUPTED
from launch.commands.arguments import Dataset, Json, Settings

if TYPE_CHECKING:
    from preprocess.convert import ShardResult
    from preprocess.shards import DatasetInfo

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
            metavar="CSV", help="Labels, with the columns path,labels[,split][,key][,group]."
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
    recipe: Annotated[
        str,
        typer.Option(
            metavar="RECIPE", help="Use the section `shard` of this recipe file or named recipe."
        ),
    ] = "",
    part: Annotated[
        int | None, typer.Option(metavar="I", help="Write this part only; the first part is 0.")
    ] = None,
    parts: Annotated[int | None, typer.Option(metavar="N", help="Number of parts.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Encode a sample, print size and hours, and write nothing."),
    ] = False,
) -> None:
    """Convert a folder of videos into a dataset of shards.

    Without --labels or --dataset, each folder of videos is a class. With --part, only the shards
    of one part are written; run `tin data merge` after all parts. In a Slurm array, --part and
    --parts default to the place of the task in the array.
    """
    from configs.load import load
    from launch.usage import check_sections, check_source
    from preprocess.convert import shard as convert

    check_sections("tin shard", settings or [], ("shard", "run"))
    check_source(source, dataset)
    part, parts = _place(part, parts)
    options = {
        "source": str(source),
        "labels": labels,
        "format": annotation_format,
        "annotations": annotations,
        "parts": parts,
    }
    given = [f"shard.{key}={json.dumps(value)}" for key, value in options.items() if value]
    config = load(recipe or None, [*(settings or []), *given])
    if dry_run:
        from preprocess.dry_run import dry_run as estimate

        for line in estimate(config).lines():
            typer.echo(line)
        return
    try:
        result = convert(config, dataset, part)
    except KeyboardInterrupt:
        typer.echo(
            f"tin: {dataset}: interrupted. Finished shards are kept; run the same command again to"
            " resume.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    if part is None:
        _report_dataset(result, dataset)
    else:
        _report_quarantine(result, dataset, "quarantine")


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
    as_json: Json = False,
) -> None:
    """Read every byte of a dataset and list what is damaged or missing."""
    from launch.usage import check_dataset
    from preprocess.verify import verify as find_problems

    check_dataset(dataset)
    problems = find_problems(dataset, sample)
    if as_json:
        typer.echo(json.dumps({"dataset": str(dataset), "problems": problems}, indent=1))
        raise typer.Exit(FAILED if problems else 0)
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

    _report_dataset(merge_parts(dataset), dataset)


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
    shards = shlex.quote(str(folder.with_name("shards")))
    typer.echo(
        f"next: tin shard {shlex.quote(str(folder))} {shards} --labels"
        f" {shlex.quote(str(folder / 'labels.csv'))}"
    )


def _place(part: int | None, parts: int | None) -> tuple[int | None, int | None]:
    """Return the part to write and the number of parts, by default those of a Slurm array.

    Raises:
        ConfigError: one of the two is given, and no array tells the other.
    """
    from configs.load import ConfigError

    in_array = "SLURM_ARRAY_TASK_ID" in os.environ
    if parts is None and in_array:
        parts = int(os.environ.get("SLURM_ARRAY_TASK_COUNT", 0)) or None
    if part is None and parts and in_array:
        first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", 0))
        part = int(os.environ["SLURM_ARRAY_TASK_ID"]) - first
    if part is None and parts:
        raise ConfigError(
            f"--parts {parts} needs --part I, the number of the part to write, from 0 to"
            f" {parts - 1}; leave both out to write all shards"
        )
    return part, parts


def _report_dataset(result: "ShardResult", dataset: Path) -> None:
    """Print what a finished dataset holds, warnings about it, and the next command.

    Exits with 3 if too many videos are in quarantine.
    """
    from preprocess.summary import summarize

    if not result.num_videos:
        typer.echo(
            f"tin: {dataset}: not one of {result.num_quarantined + result.num_missing} videos could"
            f" be used, so there is nothing to train on; the reasons are in"
            f" {dataset / 'quarantine.csv'}",
            err=True,
        )
        raise typer.Exit(BAD_DATA)
    summary = summarize(dataset)
    for line in summary.lines():
        typer.echo(line)
    _report_quarantine(result, dataset, "quarantine.csv")
    typer.echo(f"next: tin train {' '.join(_training_arguments(summary.info, dataset))}")


def _training_arguments(info: "DatasetInfo", dataset: Path) -> list[str]:
    """Return the arguments of a first `tin train` on a dataset."""
    settings = [f"data.dataset={shlex.quote(str(dataset))}"]
    if "val" not in info.splits:
        others = [split for split in info.splits if split != "train"]
        settings += [f"data.test_split={(others or ['train'])[0]}"]
    if info.multi_label:
        settings.append("train.loss=bce")
    return ["clips", "--run", "runs/first", *settings]


@data.command()
def graded(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the new videos.")],
    train: Annotated[int, typer.Option(metavar="N", help="Videos for training.")] = 2800,
    val: Annotated[int, typer.Option(metavar="N", help="Videos for testing.")] = 1400,
    size: Annotated[int, typer.Option(metavar="PIXELS", help="Width and height of a video.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.")] = 0,
) -> None:
    """Make the videos of docs/study.md: motions of graded difficulty, with a labels.csv."""
    from preprocess.graded_motions import make_graded_motions

    make_graded_motions(folder, train=train, val=val, size=size, seed=seed)
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

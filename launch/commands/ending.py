"""How commands end: the next command to type, and what a finished dataset holds."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from configs.errors import BAD_DATA

if TYPE_CHECKING:
    from preprocess.convert import ShardResult
    from preprocess.shards import DatasetInfo


def say_next(*words: str, err: bool = False) -> None:
    """Print what to type next; to stderr if the last line of the result is read by programs."""
    typer.echo(f"next: {' '.join(words)}", err=err)


def report_dataset(result: "ShardResult", dataset: Path, as_json: bool = False) -> None:
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
    if as_json:
        counts = {
            name: dict(zip(summary.info.splits, row, strict=True))
            for name, row in zip(summary.info.classes, summary.counts.tolist(), strict=True)
        }
        facts = {"digest": summary.info.digest, "splits": summary.info.splits, "classes": counts}
        _print_json(result, dataset, **facts, warnings=list(summary.warnings))
    else:
        for line in summary.lines():
            typer.echo(line)
    report_quarantine(result, dataset, "quarantine.csv", as_json)
    if not as_json:
        say_next("tin train", *training_arguments(summary.info, dataset))


def report_part(result: "ShardResult", dataset: Path, as_json: bool) -> None:
    """Print how many videos of one part are stored, and the next command."""
    if as_json:
        _print_json(result, dataset)
    report_quarantine(result, dataset, "quarantine", as_json)
    if not as_json:
        say_next(f"tin data merge {shlex.quote(str(dataset))}, after the last part")


def report_quarantine(
    result: "ShardResult", dataset: Path, name: str, as_json: bool = False
) -> None:
    """Print how many videos are stored; exit with 3 if too many are in quarantine.

    Args:
        result: counts of videos.
        dataset: folder of the dataset.
        name: file or folder in it that lists the videos in quarantine.
        as_json: print only the error, because the counts are printed as JSON.
    """
    if not as_json:
        typer.echo(f"{dataset}: {result}")
    if result.too_many_bad:
        typer.echo(
            f"tin: too many videos could not be used; the reasons are in {dataset / name}. The"
            " dataset is otherwise complete; train on it if the loss is acceptable.",
            err=True,
        )
        raise typer.Exit(BAD_DATA)


def training_arguments(info: "DatasetInfo", dataset: Path) -> list[str]:
    """Return the arguments of a first `tin train` on a dataset."""
    settings = [f"data.dataset={shlex.quote(str(dataset))}"]
    if "val" not in info.splits:
        others = [split for split in info.splits if split != "train"]
        settings += [f"data.test_split={(others or ['train'])[0]}"]
    if info.multi_label:
        settings.append("train.loss=bce")
    return ["clips", "--run", "runs/first", *settings]


def _print_json(result: "ShardResult", dataset: Path, **facts: Any) -> None:
    counts = {
        "dataset": str(dataset),
        "videos": result.num_videos,
        "quarantined": result.num_quarantined,
        "missing": result.num_missing,
    }
    typer.echo(json.dumps({**counts, **facts}, indent=1))

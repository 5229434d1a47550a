"""Verbs around the main ones: data, weights, op, bench and check."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.errors import BAD_DATA

if TYPE_CHECKING:
    from preprocess.convert import ShardResult
    from tin.timing import Report

Dataset = Annotated[Path, typer.Argument(help="Folder of a dataset.")]
Settings = Annotated[list[str] | None, typer.Argument(metavar="[section.key=value ...]")]
Json = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write all numbers here as JSON, too.")
]

data = typer.Typer(no_args_is_help=True, help="Check, join or generate data.")
weights = typer.Typer(no_args_is_help=True, help="Weights of other projects.")
op = typer.Typer(no_args_is_help=True, help="The compiled interlace operator.")
bench = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")


def add_to(app: typer.Typer) -> None:
    """Hang the verbs of this module into the command line."""
    app.add_typer(data, name="data")
    app.add_typer(weights, name="weights")
    app.add_typer(op, name="op")
    app.add_typer(bench, name="bench")
    app.command()(check)


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


@weights.command()
def fetch(
    name: Annotated[str, typer.Argument(help="resnet50, say.")],
    source: Annotated[
        str, typer.Option(metavar="URL", help="Folder of the file: http, https or file.")
    ] = "https://download.pytorch.org/models",
) -> None:
    """Fetch ImageNet weights into the cache, on a machine with a network."""
    from tin.fetch import fetch as fetch_weights

    typer.echo(fetch_weights(name, source))


@weights.command(name="import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="A checkpoint of any zoo.")],
    run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Make a run of it, to test and predict.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value ...]")] = None,
) -> None:
    """Account for every tensor of a checkpoint of another project; make a run of it."""
    from tin.foreign import import_run

    report = import_run(file, run, settings or ())
    for line in report.lines():
        typer.echo(line)
    typer.echo(report)
    raise typer.Exit(1 if report.failed else 0)


@weights.command(name="export")
def export_weights(
    run: Annotated[Path, typer.Argument(help="A run, or a checkpoint of one.")],
    out: Annotated[Path, typer.Argument(help="The file to write.")],
) -> None:
    """Write a checkpoint that the original's code reads."""
    from tin.foreign import export_run

    export_run(run, out)
    typer.echo(out)


@op.command()
def build() -> None:
    """Compile the operator, once; TORCH_CUDA_ARCH_LIST names other GPUs than those here."""
    from tin.build import build as build_op

    typer.echo(build_op())


@op.command(name="check")
def check_op() -> None:
    """Compare the compiled operator with its definition."""
    from tin.build import check as check_built

    typer.echo(check_built())


@bench.command(name="op")
def bench_op(
    json: Json = None,
    seconds: Annotated[float, typer.Option(help="For each line of the table.")] = 0.5,
    clips: Annotated[
        list[int] | None, typer.Option(metavar="N", help="A batch size; else 1, 4 and 16.")
    ] = None,
) -> None:
    """Time the operator against a copy of its bytes and against other ways to do the same."""
    from tin.bench import bench_op

    _show(bench_op(seconds, clips or (1, 4, 16)), json)


@bench.command(name="data")
def bench_data(dataset: Dataset, settings: Settings = None, json: Json = None) -> None:
    """Time the loader alone."""
    from tin.bench import bench_data

    _show(bench_data(dataset, settings=settings or ()), json)


@bench.command(name="model")
def bench_model(
    json: Json = None,
    seconds: Annotated[float, typer.Option(help="For each line of the table.")] = 10.0,
    compiled: Annotated[bool, typer.Option(help="Time torch.compile, too.")] = True,
) -> None:
    """Count parameters and operations, time latency and training, for each temporal module."""
    from tin.bench import bench_model

    _show(bench_model(seconds, compiled), json)


@bench.command(name="train")
def bench_train(dataset: Dataset, settings: Settings = None, json: Json = None) -> None:
    """Time training with its loader, for each temporal module."""
    from tin.bench import bench_train

    _show(bench_train(dataset, settings or ()), json)


def _show(report: "Report", path: Path | None) -> None:
    typer.echo(report)
    if path:
        report.save(path)


def check() -> None:
    """Look at this machine: driver, DALI, CPUs, memory, file systems, network."""
    from launch.check import look
    from launch.show import print_check

    print_check(look())

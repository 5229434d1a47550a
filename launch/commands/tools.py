"""The verbs weights, op, bench and check."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tin.bench.timing import Report

Dataset = Annotated[Path, typer.Argument(help="Folder of a dataset.")]
Settings = Annotated[list[str] | None, typer.Argument(metavar="[section.key=value ...]")]
Json = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write all numbers here as JSON, too.")
]

weights = typer.Typer(no_args_is_help=True, help="Weights of other projects.")
op = typer.Typer(no_args_is_help=True, help="The compiled interlace operator.")
bench = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.add_typer(weights, name="weights")
    app.add_typer(op, name="op")
    app.add_typer(bench, name="bench")
    app.command()(check)


@weights.command()
def fetch(
    name: Annotated[str, typer.Argument(help="resnet50, say.")],
    source: Annotated[
        str, typer.Option(metavar="URL", help="Folder of the file: http, https or file.")
    ] = "https://download.pytorch.org/models",
) -> None:
    """Fetch ImageNet weights into the cache, on a machine with a network."""
    from tin.models.imagenet import fetch as fetch_weights

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
    from tin.runs.foreign import import_run

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
    from tin.runs.foreign import export_run

    export_run(run, out)
    typer.echo(out)


@op.command()
def build() -> None:
    """Compile the operator, once; TORCH_CUDA_ARCH_LIST names other GPUs than those here."""
    from tin.op.build import build as build_op

    typer.echo(build_op())


@op.command(name="check")
def check_op() -> None:
    """Compare the compiled operator with its definition."""
    from tin.op.selftest import check as check_built

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
    from tin.bench.cases import bench_op

    _show(bench_op(seconds, clips or (1, 4, 16)), json)


@bench.command(name="data")
def bench_data(dataset: Dataset, settings: Settings = None, json: Json = None) -> None:
    """Time the loader alone."""
    from tin.bench.on_dataset import bench_data

    _show(bench_data(dataset, settings=settings or ()), json)


@bench.command(name="model")
def bench_model(
    json: Json = None,
    seconds: Annotated[float, typer.Option(help="For each line of the table.")] = 10.0,
    compiled: Annotated[bool, typer.Option(help="Time torch.compile, too.")] = True,
) -> None:
    """Count parameters and operations, time latency and training, for each temporal module."""
    from tin.bench.cases import bench_model

    _show(bench_model(seconds, compiled), json)


@bench.command(name="train")
def bench_train(dataset: Dataset, settings: Settings = None, json: Json = None) -> None:
    """Time training with its loader, for each temporal module."""
    from tin.bench.on_dataset import bench_train

    _show(bench_train(dataset, settings or ()), json)


def _show(report: "Report", path: Path | None) -> None:
    typer.echo(report)
    if path:
        report.save(path)


def check() -> None:
    """Look at this machine: driver, DALI, CPUs, memory, file systems, network."""
    from launch.check import look
    from launch.output import print_check

    print_check(look())

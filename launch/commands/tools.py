"""The commands weights, op, bench and check."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from configs.errors import FAILED
from launch.commands.arguments import Dataset, Settings
from launch.commands.arguments import Json as JsonFlag

if TYPE_CHECKING:
    from tin.bench.timing import Report

Json = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Also write all numbers to a JSON file.")
]
Compiled = Annotated[bool, typer.Option(help="Also time torch.compile.")]
Forms = Annotated[
    list[str] | None, typer.Option("--form", metavar="FORM", help="A value of train.compile.")
]
Seconds = Annotated[float, typer.Option(help="Seconds for each line of the table.")]

weights = typer.Typer(no_args_is_help=True, help="Fetch, import or export weights.")
op = typer.Typer(no_args_is_help=True, help="Compile or check the interlace operator.")
bench = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.add_typer(weights, name="weights")
    app.add_typer(op, name="op")
    app.add_typer(bench, name="bench")
    app.command()(check)


@weights.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A network, for example resnet50.")],
    source: Annotated[
        str, typer.Option(metavar="URL", help="Folder of the file: http, https or file.")
    ] = "https://download.pytorch.org/models",
) -> None:
    """Download ImageNet weights into the cache, on a machine with a network."""
    from tin.models.imagenet import fetch as fetch_weights

    typer.echo(fetch_weights(name, source))


@weights.command(name="import")
def import_weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The checkpoint.")],
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="DIR", help="Make this run of the checkpoint, for test and predict."
        ),
    ] = None,
    settings: Settings = None,
) -> None:
    """Import a checkpoint of another project; list what becomes of each of its tensors."""
    from launch.usage import check_file

    check_file(file, "a checkpoint")

    from tin.runs.foreign import import_run

    report = import_run(file, run_dir, settings or ())
    for line in report.lines():
        typer.echo(line)
    typer.echo(report)
    if report.failed:
        raise typer.Exit(FAILED)


@weights.command(name="export")
def export_weights(
    run_dir: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run, or one of its checkpoints.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write.")],
) -> None:
    """Write a checkpoint that the authors' original code reads."""
    from launch.usage import check_model

    check_model(run_dir)

    from tin.runs.foreign import export_run

    export_run(run_dir, out)
    typer.echo(out)


@op.command()
def build() -> None:
    """Compile the operator once; TORCH_CUDA_ARCH_LIST selects GPUs that this machine lacks."""
    from tin.op.build import build as build_op

    typer.echo(build_op())


@op.command(name="check")
def check_op() -> None:
    """Compare the compiled operator with its definition in PyTorch."""
    from tin.op.selftest import check as check_built

    typer.echo(check_built())


@bench.command(name="op")
def bench_op(
    json: Json = None,
    seconds: Seconds = 0.5,
    clips: Annotated[
        list[int] | None, typer.Option(metavar="N", help="A batch size; by default 1, 4 and 16.")
    ] = None,
    compiled: Compiled = True,
) -> None:
    """Time the operator, a copy of its bytes, and other ways to compute the same."""
    from tin.bench import cases

    _show(cases.bench_op(seconds, clips or (1, 4, 16), compiled, json), json)


@bench.command(name="data")
def bench_data(dataset: Dataset, settings: Settings = None, json: Json = None) -> None:
    """Time the loader alone."""
    from launch.usage import check_dataset

    check_dataset(dataset)

    from tin.bench import on_dataset

    _show(on_dataset.bench_data(dataset, settings=settings or ()), json)


@bench.command(name="model")
def bench_model(
    json: Json = None,
    seconds: Seconds = 10.0,
    compiled: Compiled = True,
    arch: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Compare these networks on the CPU, and nothing else."),
    ] = None,
) -> None:
    """Count parameters and operations, and time inference and training of each temporal module."""
    from tin.bench import architectures, cases

    if arch:
        _show(architectures.bench_architectures(arch, seconds), json)
        return
    _show(cases.bench_model(seconds, compiled, json), json)


@bench.command(name="steps")
def bench_steps(
    settings: Settings = None,
    json: Json = None,
    seconds: Seconds = 2.0,
    clips: Annotated[
        list[int] | None, typer.Option(metavar="N", help="A batch size; by default 6 and 32.")
    ] = None,
    form: Forms = None,
) -> None:
    """Time training steps without a loader, for each temporal module and train.compile."""
    from tin.bench import steps

    forms = form or ("none", "graphs", "default")
    _show(steps.bench_steps(clips or (6, 32), forms, seconds, settings or (), json), json)


@bench.command(name="scale")
def bench_scale(
    clips: Annotated[int, typer.Option(metavar="N", help="Clips of a step on each GPU.")] = 32,
    rate: Annotated[
        list[float] | None,
        typer.Option(metavar="CLIPS/S", help="Speed of one GPU; by default 620 and 900 (H100)."),
    ] = None,
    network: Annotated[
        float, typer.Option(metavar="GBIT/S", help="Speed of the network between nodes.")
    ] = 100.0,
    gpus: Annotated[
        list[int] | None, typer.Option(metavar="N", help="GPUs; by default 8, 64 and 512.")
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A file of `tin doctor`, whose figures take the place of those."
        ),
    ] = None,
) -> None:
    """Predict the speed of many GPUs from the speed of one and from the network."""
    from tin.bench import diagnosis, scale

    rates = rate or scale.H100
    machines = [scale.Machine(speed, clips, network_gbit_s=network) for speed in rates]
    if measured:
        machines = [scale.measured_machine(diagnosis.load(measured), network)]
    for line in scale.table(machines, gpus or (8, 64, 512)):
        typer.echo(line)


@bench.command(name="train")
def bench_train(
    dataset: Dataset, settings: Settings = None, json: Json = None, form: Forms = None
) -> None:
    """Time training with its loader, for each temporal module and train.compile."""
    from launch.usage import check_dataset

    check_dataset(dataset)

    from tin.bench import on_dataset

    _show(on_dataset.bench_train(dataset, settings or (), form or ("none",), json), json)


def check(as_json: JsonFlag = False) -> None:
    """Print what this machine offers: driver, DALI, CPUs, memory, file systems and network."""
    from launch.check import look
    from launch.output import print_check

    if as_json:
        typer.echo(json.dumps([row._asdict() for row in look()], indent=1))
        return
    print_check(look())


def _show(report: "Report", path: Path | None) -> None:
    typer.echo(report)
    if path:
        report.save(path)

"""The commands of results: test, report and fuse."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from launch.commands.arguments import Json, RunDir, Settings
from launch.commands.ending import say_next

Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder to write the files to.")]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    for command in (test, report, fuse):
        app.command()(command)


def test(
    run_dir: RunDir,
    settings: Settings = None,
    views: Annotated[
        str, typer.Option(metavar="CLIPSxCROPS", help="Views of each video, for example 2x3.")
    ] = "",
    crop: Annotated[
        int, typer.Option(metavar="PIXELS", help="Side of the crops; by default the recipe's.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Measure a trained model; write its scores, predictions and metrics to RUN/tests."""
    from configs.load import run_path
    from launch.usage import check_testing

    given = [*(settings or []), *_view_settings(views)]
    if crop:
        given.append(f"test.crop={crop}")
    folder = run_path(run_dir)
    check_testing(folder, given)

    from tin.evaluation.evaluate import test as test_run
    from tin.evaluation.scores import load_result
    from tin.ranks.distributed import start
    from tin.reports.intervals import store_intervals
    from tin.runs.folder import Run

    with start(Run(folder).config().run.device) as world:
        out = test_run(folder, given, world)
        if world.is_main:
            store_intervals(out)
    if world.is_main:
        result = load_result(out)
        if as_json:
            typer.echo(json.dumps({"folder": str(out), **result}, indent=1))
            return
        print_metrics(result["metrics"])
        typer.echo(out)
        say_next(f"tin report {shlex.quote(str(run_dir))} --out report")


def report(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN_OR_FOLDER...", help="A run or a folder of runs, or several."),
    ] = None,
    out: Out = Path(),
    detail: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="Show frames, confusion and offsets of this run on the page; by default, of the"
            " eight best runs. May be repeated.",
        ),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B",
            help="Only print the paired test of two models. Each is a run, a folder of runs that"
            " differ in the seed, or a folder of a test.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a table of runs; write results.csv, .md, .tex and .html."""
    from configs.load import ConfigError, run_path
    from launch.usage import check_runs

    if compare:
        _print_comparison(*(path if path.exists() else run_path(path) for path in compare))
        return
    if not paths:
        raise ConfigError("tin report: name a run or a folder of runs, or two with --compare A B")
    folders = [path if path.exists() else run_path(path) for path in paths]
    check_runs(folders)

    from launch.slurm_query import account
    from tin.reports.results import load_runs, write_report
    from tin.reports.tables import plain, readable

    account(folders)
    frame = load_runs(folders)
    detailed = [path if path.exists() else run_path(path) for path in detail or []]
    if as_json:
        typer.echo(frame.to_json(orient="records", indent=1))
        write_report(frame, out, detailed)
        return
    table, shared = readable(frame)
    # A terminal limits the width of the table; a pipe or a file does not.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    typer.echo(plain(table, width))
    if shared:
        typer.echo(f"all rows: {shared}")
    typer.echo(write_report(frame, out, detailed))
    say_next("open this page in a browser; `tin report --compare A B` tests two runs", err=True)


def fuse(
    tests: Annotated[
        list[Path], typer.Argument(metavar="TEST...", help="Folders of tests, as in RUN/tests.")
    ],
    out: Out,
    weights: Annotated[
        str,
        typer.Option(metavar="W,W...", help="A weight for each test; by default all are equal."),
    ] = "",
    fit: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="TEST",
            help="Choose the weights on these tests of another split; one for each TEST, in the"
            " same order.",
        ),
    ] = None,
    average: Annotated[
        Literal["scores", "logits"] | None,
        typer.Option(help="Average scores or logits; by default as the tests did."),
    ] = None,
    submission: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Also write the classes of each video (.csv or .json)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Combine the scores of several models."""
    from configs.load import ConfigError
    from launch.usage import check_file

    try:
        given = [float(weight) for weight in weights.split(",")] if weights else None
    except ValueError:
        raise ConfigError(
            f"--weights {weights}: expected numbers separated by commas, for example 2,1"
        ) from None
    for folder in tests:
        check_file(folder / "scores.npz", "the scores of a test, which `tin test` writes")

    from tin.evaluation.fuse import fuse_tests, write_submission
    from tin.evaluation.scores import load as load_scores

    result = fuse_tests(tests, out, given, fit or None, average)
    for path in submission or []:
        write_submission(load_scores(out), path)
    if as_json:
        typer.echo(json.dumps({"folder": str(out), **result}, indent=1))
        return
    typer.echo("weights " + ", ".join(f"{weight:.4f}" for weight in result["weights"]))
    print_metrics(result["metrics"])
    typer.echo(f"{'average':10} {result['average']}")
    typer.echo(out)


def _view_settings(views: str) -> list[str]:
    """Return the settings of `--views 2x3`; none for an empty text."""
    from configs.load import ConfigError

    if not views:
        return []
    clips, _, crops = views.partition("x")
    if not (clips.isdecimal() and crops.isdecimal()):
        raise ConfigError(f"--views {views}: expected CLIPSxCROPS, for example 2x3")
    return [f"test.clips={clips}", f"test.crops={crops}"]


def print_metrics(metrics: dict[str, float | None]) -> None:
    """Print a line for each metric."""
    for name, value in metrics.items():
        text = "unknown: no video has a label" if value is None else f"{value:.4f}"
        typer.echo(f"{name:10} {text}")


def _print_comparison(first: Path, second: Path) -> None:
    """Print the difference of two models on the same videos, with its interval and p."""
    from tin.reports.comparisons import compare_paths
    from tin.reports.tables import p_text

    name, found = compare_paths(first, second)
    groups = f" in {found.num_groups} groups" if found.num_groups is not None else ""
    typer.echo(
        f"{name}, {found.num_videos} videos{groups},"
        f" seeds: {found.num_seeds[0]} and {found.num_seeds[1]}"
    )
    typer.echo(f"first   {first}\nsecond  {second}")
    typer.echo(
        f"first minus second: {100 * found.difference:+.2f} points, 95 % interval"
        f" {100 * found.low:+.2f} to {100 * found.high:+.2f}, p {p_text(found.p)}"
    )
    if not found.covers_seeds:
        typer.echo(
            "This holds for these trained models. To compare the methods, train each with at least"
            " two seeds."
        )

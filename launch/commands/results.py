"""The commands of results: test, predict, report and fuse."""

import json
import math
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from configs.errors import FAILED
from launch.commands.arguments import Json, RunDir, Settings

if TYPE_CHECKING:
    from tin.evaluation.predict import Prediction

BAR_LENGTH = 30
"""Characters of the bar for a score of 1."""

Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder to write the files to.")]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    for command in (test, predict, report, fuse):
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
    from tin.reports.measured import store_intervals
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
        _print_metrics(result["metrics"])
        typer.echo(out)
        typer.echo(f"next: tin report {shlex.quote(str(run_dir))} --out report")


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run or a checkpoint.")],
    videos: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="VIDEO... [section.key=value ...]",
            help="Video files. With --out also a folder of videos, a dataset, or a list of videos"
            " (.txt, or .csv with a column path). Settings come last.",
        ),
    ] = None,
    as_json: Json = False,
    strip: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Write an image of the frames that were used."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write the predictions to this folder instead of printing them."
        ),
    ] = None,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Write the scores over time of long videos to --out.")
    ] = False,
    stream: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="Print the classes frame by frame: of a video file, of raw RGB frames on the"
            " standard input (-), or of a camera (camera:/dev/video0).",
        ),
    ] = "",
    size: Annotated[
        str, typer.Option(metavar="WIDTHxHEIGHT", help="Size of the raw frames of --stream -.")
    ] = "",
) -> None:
    """Print the five most likely classes of each video, or write many predictions to a folder."""
    from configs.load import ConfigError, run_path
    from launch.usage import check_model, check_videos

    sources, settings = _split_settings(videos or [])
    path = model if model.exists() else run_path(model)
    check_model(path)
    if bool(stream) == bool(sources):
        raise ConfigError("give either videos or --stream SOURCE")
    if stream:
        _print_stream(path, stream, settings, size, as_json)
        return
    if not out:
        check_videos(sources)
    if timeline and not out:
        raise ConfigError("--timeline writes files; give a folder with --out DIR")
    if out:
        _predict_to_folder(path, sources, out, settings, timeline)
    else:
        _predict_and_print(path, sources, settings, as_json, strip)


def _predict_and_print(
    model: Path, videos: list[Path], settings: list[str], as_json: bool, strip: Path | None
) -> None:
    """Print the classes of a few videos."""
    from configs.load import ConfigError
    from tin.evaluation.predict import predict as predict_videos
    from tin.evaluation.predict import save_strip

    if settings:
        raise ConfigError(f"{settings[0]}: settings need --out DIR")
    predictions = []
    for prediction in predict_videos(model, videos):
        predictions.append(prediction)
        if not as_json:
            _print_prediction(prediction)
    if as_json:
        typer.echo(json.dumps([prediction.record() for prediction in predictions], indent=1))
    if strip:
        save_strip(predictions, strip)
    if any(prediction.problem for prediction in predictions):
        raise typer.Exit(FAILED)


def _print_stream(model: Path, source: str, settings: list[str], size: str, as_json: bool) -> None:
    """Print a line for each frame of a stream that the model reads."""
    from tin.deploy.stream import predict_stream

    for found in predict_stream(model, source, settings, _size(size)):
        if as_json:
            classes = [{"class": name, "score": round(score, 6)} for name, score in found.classes]
            seconds = None if math.isnan(found.seconds) else round(found.seconds, 3)
            line = json.dumps({"frame": found.number, "seconds": seconds, "classes": classes})
        else:
            best = "  ".join(f"{100 * score:.1f} % {name}" for name, score in found.classes)
            line = f"frame {found.number}: {best}"
        typer.echo(line)
        sys.stdout.flush()  # a reader of a pipe gets each line at once


def _size(text: str) -> tuple[int, int] | None:
    """Return width and height of `--size 640x480`; None for an empty text."""
    from configs.load import ConfigError

    if not text:
        return None
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ConfigError(f"--size {text}: expected WIDTHxHEIGHT, for example 640x480")
    return int(width), int(height)


def _predict_to_folder(
    model: Path, sources: list[Path], out: Path, settings: list[str], timeline: bool
) -> None:
    """Write the predictions or the timelines of many videos."""
    from tin.deploy.predictions import predict_all
    from tin.deploy.scorer import device_setting
    from tin.deploy.timeline import write_timelines
    from tin.ranks.distributed import start

    if timeline:
        num_bad = write_timelines(model, sources, out, settings)
    else:
        with start(device_setting(model, settings)) as world:
            result = predict_all(model, sources, out, settings, world)
        if not world.is_main:
            return
        num_bad = result["num_bad"]
        _print_metrics(result["metrics"])
        typer.echo(f"{result['num_predicted']} videos predicted")
    if num_bad:
        typer.echo(f"{num_bad} videos could not be used; {out / 'bad.csv'} gives the reasons")
    typer.echo(out)


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
    _print_metrics(result["metrics"])
    typer.echo(f"{'average':10} {result['average']}")
    typer.echo(out)


def _split_settings(words: list[Path]) -> tuple[list[Path], list[str]]:
    """Return the paths and the `section.key=value` among the arguments of `tin predict`."""
    is_setting = [bool(re.match(r"\w+\.\w+=", str(word))) and not word.exists() for word in words]
    pairs = list(zip(words, is_setting, strict=True))
    return [word for word, setting in pairs if not setting], [
        str(word) for word, setting in pairs if setting
    ]


def _view_settings(views: str) -> list[str]:
    """Return the settings of `--views 2x3`; none for an empty text."""
    from configs.load import ConfigError

    if not views:
        return []
    clips, _, crops = views.partition("x")
    if not (clips.isdigit() and crops.isdigit()):
        raise ConfigError(f"--views {views}: expected CLIPSxCROPS, for example 2x3")
    return [f"test.clips={clips}", f"test.crops={crops}"]


def _print_prediction(prediction: "Prediction") -> None:
    """Print the classes of a video with a bar for each score, or why it could not be read."""
    problem = f": {prediction.problem}" if prediction.problem else ""
    typer.echo(f"{prediction.video}{problem}")
    for name, score in prediction.classes:
        bar = "█" * round(BAR_LENGTH * score)
        typer.echo(f"  {100 * score:5.1f} % {bar:{BAR_LENGTH}} {name}")


def _print_comparison(first: Path, second: Path) -> None:
    """Print the difference of two models on the same videos, with its interval and p."""
    from tin.reports.comparisons import compare_paths
    from tin.reports.tables import p_text

    name, found = compare_paths(first, second)
    typer.echo(
        f"{name}, {found.num_videos} videos, seeds: {found.num_seeds[0]} and {found.num_seeds[1]}"
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


def _print_metrics(metrics: dict[str, float | None]) -> None:
    for name, value in metrics.items():
        text = "unknown: no video has a label" if value is None else f"{value:.4f}"
        typer.echo(f"{name:10} {text}")

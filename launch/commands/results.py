"""Verbs of results: test, predict, report and fuse."""

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

BAR = 30  # characters of a score of 1

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[section.key=value ...]", help="Settings that come last."),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    for verb in (test, predict, report, fuse):
        app.command()(verb)


def test(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    settings: Settings = None,
    views: Annotated[
        str, typer.Option(metavar="CLIPSxCROPS", help="Views of a video, 2x3 say.")
    ] = "",
    crop: Annotated[int, typer.Option(metavar="PIXELS", help="Side of the test crop.")] = 0,
) -> None:
    """Measure a trained model: scores, predictions and result in RUN/tests."""
    from configs.load import ConfigError, run_path
    from tin.evaluation.evaluate import test as test_run
    from tin.evaluation.scores import load_result
    from tin.ranks.distributed import start
    from tin.runs.folder import Run

    given = list(settings or [])
    if views:
        clips, found, crops = views.partition("x")
        if not (found and clips.isdigit() and crops.isdigit()):
            raise ConfigError(f"--views {views}: expected CLIPSxCROPS, 2x3 say")
        given += [f"test.clips={clips}", f"test.crops={crops}"]
    if crop:
        given.append(f"test.crop={crop}")
    folder = run_path(run)
    with start(Run(folder).config().run.device) as world:
        out = test_run(folder, given, world)
    if world.is_main:
        _print_metrics(load_result(out)["metrics"])
        typer.echo(out)


def predict(
    model: Annotated[Path, typer.Argument(help="A run or a checkpoint.")],
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...", help="Video files.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    strip: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Save the frames that were used.")
    ] = None,
) -> None:
    """Name the five likeliest classes of videos."""
    from configs.load import run_path
    from tin.evaluation.predict import predict as predict_videos
    from tin.evaluation.predict import save_strip

    predictions = []
    for prediction in predict_videos(model if model.exists() else run_path(model), videos):
        predictions.append(prediction)
        if not as_json:
            typer.echo(f"{prediction.video}{prediction.problem and ': ' + prediction.problem}")
            for name, score in prediction.classes:
                typer.echo(f"  {100 * score:5.1f} % {round(BAR * score) * '█':{BAR}} {name}")
    if as_json:
        typer.echo(json.dumps([prediction.record() for prediction in predictions], indent=1))
    if strip:
        save_strip(predictions, strip)
    raise typer.Exit(int(any(prediction.problem for prediction in predictions)))


def report(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RUN_OR_FOLDER...", help="Runs, or folders of runs.")
    ],
    out: Out = Path(),
) -> None:
    """Print a table of runs; write results.csv, results.md and results.html."""
    from configs.load import run_path
    from launch.slurm_query import account
    from tin.reports.results import load_runs, write_report
    from tin.reports.tables import plain, readable

    folders = [path if path.exists() else run_path(path) for path in paths]
    account(folders)
    frame = load_runs(folders)
    table, shared = readable(frame)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    typer.echo(plain(table, width))
    if shared:
        typer.echo(f"all rows: {shared}")
    typer.echo(write_report(frame, out))


def fuse(
    tests: Annotated[
        list[Path], typer.Argument(metavar="TEST...", help="Folders below RUN/tests.")
    ],
    out: Out,
    weights: Annotated[
        str, typer.Option(metavar="W,W...", help="One a test; without any, all alike.")
    ] = "",
    fit: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="TEST", help="Fit the weights on this test of another split; once a test."
        ),
    ] = None,
    submission: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Also write the classes of each video: .csv, .json."),
    ] = None,
) -> None:
    """Combine the scores of several models."""
    from configs.load import ConfigError
    from tin.evaluation.fuse import fuse_tests, write_submission
    from tin.evaluation.scores import load as load_scores

    try:
        given = [float(weight) for weight in weights.split(",")] if weights else None
    except ValueError:
        raise ConfigError(f"--weights {weights}: expected numbers, 2,1 say") from None
    result = fuse_tests(tests, out, given, fit or None)
    typer.echo("weights " + ", ".join(f"{weight:.4f}" for weight in result["weights"]))
    _print_metrics(result["metrics"])
    for path in submission or []:
        write_submission(load_scores(out), path)
    typer.echo(out)


def _print_metrics(metrics: dict[str, float | None]) -> None:
    for name, value in metrics.items():
        if value is None:
            typer.echo(f"{name:10} unknown: no video has a label")
        else:
            typer.echo(f"{name:10} {value:.4f}")

"""The commands that use a trained model outside of its run: predict and export."""

import json
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from configs.errors import FAILED
from configs.progress import show_progress
from launch.commands.ending import say_next
from launch.commands.results import print_metrics

if TYPE_CHECKING:
    from tin.evaluation.predict import Prediction

BAR_LENGTH = 30
"""Characters of the bar for a score of 1."""


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    for command in (predict, export):
        app.command()(command)


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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
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


def export(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="A run or a checkpoint.")],
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The file to write: .pt2, .onnx or .safetensors."),
    ],
    preprocess: Annotated[
        bool,
        typer.Option(
            "--preprocess",
            help="Take uint8 frames of any size; scale, crop and normalize them in the model.",
        ),
    ] = False,
    check: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="VIDEO",
            help="Compare the file with the run on this video; by default on the first videos of"
            " data.test_split.",
        ),
    ] = None,
) -> None:
    """Write a trained model to a file that runs without tin-video, with a model card beside it."""
    from configs.load import run_path
    from launch.usage import check_model

    path = model if model.exists() else run_path(model)
    check_model(path)

    from tin.deploy.export import export as export_model

    found = export_model(path, file, preprocess=preprocess, videos=check or [])
    typer.echo(
        f"{file}: the largest difference of a logit is {found.largest_difference:.2g} on"
        f" {found.num_clips} clips"
    )
    typer.echo(file.with_suffix(".md"))


def _predict_and_print(
    model: Path, videos: list[Path], settings: list[str], as_json: bool, strip: Path | None
) -> None:
    """Print the classes of a few videos."""
    from configs.load import ConfigError
    from tin.evaluation.predict import predict as predict_videos
    from tin.evaluation.predict import save_strip

    if settings:
        raise ConfigError(f"{settings[0]}: settings need --out DIR")
    for video in videos:
        if video.suffix.lower() in (".txt", ".csv") or (video / "dataset.yaml").exists():
            raise ConfigError(f"{video} stands for many videos; give a folder with --out DIR")
    predictions = []
    for prediction in show_progress(predict_videos(model, videos), len(videos), "predict, videos"):
        predictions.append(prediction)
        if not as_json:
            _print_prediction(prediction)
    if as_json:
        typer.echo(json.dumps([prediction.record() for prediction in predictions], indent=1))
    if strip:
        save_strip(predictions, strip)
    elif not as_json:
        say_next(
            "add --strip FILE.png to see what the model saw, --out DIR for many videos", err=True
        )
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
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
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
        print_metrics(result["metrics"])
        typer.echo(f"{result['num_predicted']} videos predicted")
    if num_bad:
        typer.echo(f"{num_bad} videos could not be used; {out / 'bad.csv'} gives the reasons")
    typer.echo(out)
    what = "segments.csv and the pictures" if timeline else "the predictions"
    say_next(f"read {what} in {out}", err=True)


def _split_settings(words: list[Path]) -> tuple[list[Path], list[str]]:
    """Return the paths and the `section.key=value` among the arguments of `tin predict`."""
    is_setting = [bool(re.match(r"\w+\.\w+=", str(word))) and not word.exists() for word in words]
    pairs = list(zip(words, is_setting, strict=True))
    return [word for word, setting in pairs if not setting], [
        str(word) for word, setting in pairs if setting
    ]


def _print_prediction(prediction: "Prediction") -> None:
    """Print the classes of a video with a bar for each score, or why it could not be read."""
    problem = f": {prediction.problem}" if prediction.problem else ""
    typer.echo(f"{prediction.video}{problem}")
    for name, score in prediction.classes:
        bar = "█" * round(BAR_LENGTH * score)
        typer.echo(f"  {100 * score:5.1f} % {bar:{BAR_LENGTH}} {name}")

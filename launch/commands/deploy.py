"""The commands that take a trained model out of its run: export."""

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.command()(export)


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

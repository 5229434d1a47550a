"""Types of arguments that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[section.key=value ...]", help="Settings to override."),
]
Recipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or a name in configs/recipes.")
]
Dataset = Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of the dataset.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")]
RunDirs = Annotated[
    list[Path], typer.Argument(metavar="RUN...", help="A run or a folder of runs, or several.")
]
RunDirOption = Annotated[Path, typer.Option("--run", metavar="DIR", help="Folder of the run.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

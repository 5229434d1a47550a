"""The command doctor: what bounds a training run, and what would help."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.commands.arguments import Settings
from launch.commands.training import TRAIN_SECTIONS

if TYPE_CHECKING:
    from configs.schema import Config
    from tin.runs.folder import Run


def add_to(app: typer.Typer) -> None:
    """Register this command."""
    app.command()(doctor)


def doctor(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|RUN", help="A recipe file, a name in configs/recipes, or a run."
        ),
    ],
    settings: Settings = None,
    ranks: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Measure this many ranks on this machine."),
    ] = 1,
    json: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of all numbers; by default doctor.json in the run, and none of a recipe.",
        ),
    ] = None,
) -> None:
    """Measure the parts of training, and say which one bounds the run and what would help.

    The measurement takes about two minutes and changes nothing but the JSON file. Under torchrun
    or srun it measures the ranks that these have started.
    """
    from launch.diagnosis_bars import print_diagnosis
    from launch.usage import check_sections

    typed = settings or []
    check_sections("tin doctor", typed, TRAIN_SECTIONS)
    config, run_dir, parent = _resolve(subject, typed)
    if ranks > 1:
        raise typer.Exit(_start_ranks(ranks, subject, typed, json))
    # Everything that can be checked without torch is checked: importing it takes seconds.
    from tin.bench import diagnosis
    from tin.bench.doctor import examine
    from tin.ranks.distributed import start

    with start(config.run.device) as world:
        found = examine(config, parent, world)
    if found is None:  # on all ranks but 0
        return
    print_diagnosis(found)
    path = json or (run_dir / diagnosis.FILE if run_dir else None)
    if path:
        found.save(path)
        typer.echo(f"wrote {path}")


def _resolve(subject: str, settings: list[str]) -> tuple["Config", Path | None, Path]:
    """Return the settings of a recipe or a run, the run's folder, and a folder on its disk."""
    from configs.load import load, parse, run_path, with_settings
    from configs.schema import Config
    from launch.usage import check_run, is_recipe
    from tin.runs.fit import check_training
    from tin.runs.folder import Run

    if is_recipe(subject):
        config = load(subject, settings)
        run_dir = None
        parent = run_path(".")
        parent.mkdir(parents=True, exist_ok=True)
    else:
        run_dir = parent = run_path(subject)
        check_run(run_dir)
        values = with_settings(Run(run_dir).config().model_dump(mode="json"), settings)
        config = parse(Config, values, "settings")
        _warn_of_load(Run(run_dir))
    check_training(config, is_new=False)
    return config, run_dir, parent


def _warn_of_load(run: "Run") -> None:
    """Say that a process trains the run while it is measured."""
    from tin.runs.living import living_attempt

    found = living_attempt(run)
    if found:
        typer.echo(
            f"tin: {run.path} is being trained by process {found.pid} on host {found.host}. If"
            " that is this machine, the figures are those of a busy machine.",
            err=True,
        )


def _start_ranks(ranks: int, subject: str, settings: list[str], json: Path | None) -> int:
    """Run this command on several ranks of this machine; return its exit code."""
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--no-python"]
    command += ["--nproc-per-node", str(ranks), "--", sys.executable, "-P", "-m", "launch"]
    command += ["doctor", subject, *settings]
    if json:
        command += ["--json", str(json)]
    return subprocess.run(command, env={**os.environ, "PYTHONSAFEPATH": "1"}).returncode

"""The command line. A command imports what it needs when it runs, so that `--help` is fast."""

import os
import sys
import traceback
from typing import Annotated

import typer

from launch.commands import cluster, data, deploy, results, tools, training
from launch.errors import exit_code, explain, set_up_libraries, set_up_logging

DISTRIBUTION = "tin-video"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line, and exit with the code that `configs.errors` defines for the outcome.

    0 is success, 1 a failure, 2 wrong usage or settings, 3 too much bad data, and 75 a stop by a
    signal after which the same command resumes.
    """
    set_up_libraries()
    debug = "--debug" in sys.argv
    try:
        app([argument for argument in sys.argv[1:] if argument != "--debug"])
    except Exception as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"tin: {explain(error)}", err=True)
        sys.exit(exit_code(error))


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"{DISTRIBUTION} {version(DISTRIBUTION)}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of an error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Train video action recognition with the Temporal Interlacing Network."""
    set_up_logging(int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0))


for group in (data, training, results, deploy, tools, cluster):
    group.add_to(app)

"""The command line. Each verb imports what it needs when it runs: `tin --help` stays quick."""

import os
import sys
import traceback
from typing import Annotated

import typer

from launch.commands import cluster, data, results, tools, training
from launch.errors import exit_code, explain, set_up_libraries, set_up_logging

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; leave with 0, 1, 2, 3 or 75 as DESIGN.md section 4 says."""
    set_up_libraries()
    debug = "--debug" in sys.argv
    try:
        app([word for word in sys.argv[1:] if word != "--debug"])
    except Exception as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"tin: {explain(error)}", err=True)
        sys.exit(exit_code(error))


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
) -> None:
    """Train video action recognition with the Temporal Interlacing Network."""
    set_up_logging(int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0))


for group in (data, training, results, tools, cluster):
    group.add_to(app)

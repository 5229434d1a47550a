"""The command line. A command imports what it needs when it runs, so that `--help` is fast."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.main

from configs.progress import QUIET
from launch.commands import cluster, data, deploy, doctor, results, tools, training
from launch.commands.examples import EXAMPLES
from launch.errors import exit_code, explain, set_up_libraries, set_up_logging

DISTRIBUTION = "tin-video"
COMPLETION = "_TIN_COMPLETE"
"""Environment variable with which a shell asks for completions."""
FIRST_STEPS = """\
From videos to a report in four steps:

  1  tin shard ~/videos ~/shards/mine
     Turn a folder of videos, with one folder per class, into a dataset.
  2  tin train clips --run runs/first data.dataset=~/shards/mine
     Train the small network of recipe clips. After Ctrl-C, `tin train --run runs/first` resumes.
  3  tin test runs/first
     Measure it on the videos that were held out.
  4  tin report runs --out report
     Write a table of all runs, and a page with curves.

Or all four with one command:

  tin submit shard,train,test,report clips --run runs/first --cluster local \\
      shard.source=~/videos data.dataset=~/shards/mine

`tin --help` lists all commands, `tin COMMAND --help` explains one."""

app = typer.Typer(
    no_args_is_help=True,
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
    if "--quiet" in sys.argv:
        os.environ[QUIET] = "1"
    arguments = [word for word in sys.argv[1:] if word not in ("--debug", "--quiet")]
    try:
        command = typer.main.get_command(app)
        _check_options(command, arguments)
        if arguments or COMPLETION in os.environ:
            command(arguments, prog_name="tin")
        typer.echo(FIRST_STEPS)
    except Exception as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"tin: {explain(error)}", err=True)
        sys.exit(exit_code(error))


def _check_options(command: Any, arguments: Sequence[str]) -> None:
    """Check the options of the command that the arguments begin with."""
    rest = list(arguments)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    typed = {argument.partition("=")[0] for argument in rest if argument.startswith("--")}
    if typed - options:
        from launch.usage import check_options  # takes a tenth of a second

        check_options(rest, options)


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
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print only results, warnings and errors.")
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


def _add_examples(typed: typer.Typer, prefix: str = "") -> None:
    """Add an example to the help of each command."""
    for command in typed.registered_commands:
        name = str(command.name or getattr(command.callback, "__name__", ""))
        command.epilog = f"Example: {EXAMPLES[prefix + name]}"
    for inner in typed.registered_groups:
        if inner.typer_instance:
            _add_examples(inner.typer_instance, f"{inner.name} ")


for group in (data, training, results, deploy, doctor, tools, cluster):
    group.add_to(app)
_add_examples(app)

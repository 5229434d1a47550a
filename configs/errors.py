"""The base of this project's exceptions, and the exit codes of its commands."""

from typing import ClassVar

FAILED = 1
USAGE = 2
BAD_DATA = 3
STOPPED = 75
"""A signal stopped the command after a checkpoint was written; the same command resumes it."""
INTERRUPTED = 130
"""Ctrl-C stopped the command: the code that shells use."""


class TinError(Exception):
    """An error that a user can act on. Its message says where, what was found and what to do."""

    exit_code: ClassVar[int] = FAILED
    """Exit code of the command or job that fails with this error."""
    is_final: ClassVar[bool] = False
    """Whether the same job would fail in the same way again, so that a requeue cannot help."""
    blames_node: ClassVar[bool] = False
    """Whether the fault lies with the node, so that the next attempt should avoid it."""
    signal: str = ""
    """Name of the signal that stopped the command, such as SIGUSR2; empty without one."""

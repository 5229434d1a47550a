"""Fuzzers of the readers: whatever a file contains, its reader answers, or names the file.

For a number of seconds of CPU time, a valid file is mutated and read. A finding is a reader that
raises anything but a TinError that names the file, takes longer than 10 s or more than 1 GB, or
crashes. A content whose outcome was not seen before is mutated further.
"""

import argparse
import logging
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fault_table import HangError, time_limit
from fuzz_mutate import mutated

from configs.errors import TinError

LIMIT_S = 10
"""Most CPU time that a reader may take."""
WALL_LIMIT_S = 120
"""A reader that takes longer waits for something; a busy machine takes a part of this time."""
MAX_MEMORY = 1 << 30
ADDRESS_SPACE = 4 << 30
"""How much more address space a reader may take, so that a finding does not end the machine."""
MAX_CORPUS = 200
MAX_CONTENT = 1 << 20
HEAD = "| reader | CPU seconds | executions | findings |\n|---|---|---|---|"


@dataclass(frozen=True)
class Reader:
    """Files, and the function that reads them."""

    name: str
    write: Callable[[Path], object]
    """Writes valid files into an empty folder."""
    read: Callable[[Path], object]
    """Reads them; checks that what it returns is finite and complete."""
    files: tuple[str, ...]
    """Patterns of the files that are mutated, one at a time."""
    must_answer: bool = False
    """Whether the reader may not reject a file, because it must show other runs."""
    rename: tuple[str, ...] = ()
    """Patterns of files or folders whose names are mutated."""


@dataclass
class Findings:
    """What a fuzzer did and found."""

    reader: str
    seconds: float = 0.0
    executions: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    """An example of each kind of problem: the file that holds the content."""

    def line(self) -> str:
        """Return a row of the table in Markdown."""
        return f"| {self.reader} | {self.seconds:.0f} | {self.executions} | {len(self.problems)} |"


def problem_of(reader: Reader, folder: Path, names: tuple[str, ...]) -> tuple[str, str]:
    """Read the files once.

    Returns:
        What is wrong with the reader (empty if nothing is), and the kind of its outcome, in which
        numbers and quoted texts do not count.
    """
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    problem = ""
    outcome = "read"
    try:
        with time_limit(WALL_LIMIT_S):
            reader.read(folder)
    except TinError as error:
        text = str(error)
        outcome = f"{type(error).__name__} {text.replace(str(folder), '')}"
        if reader.must_answer:
            problem = f"does not answer: {outcome}"
        elif not any(name in text for name in names):
            problem = f"no file is named: {outcome}"
    except HangError:
        problem = "hangs"
    except (Exception, RecursionError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = [f"{Path(f.filename).name}:{f.lineno}" for f in frames][-3:]
        problem = f"raw {type(error).__name__}: {str(error)[:200]} at {' '.join(where)}"
    if time.process_time() - began > LIMIT_S:
        problem = problem or "takes too long"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory)
    if grown > MAX_MEMORY:
        problem = problem or f"takes {grown >> 20} MB"
    return problem, re.sub(r"[0-9]+|'[^']*'|\"[^\"]*\"", "#", problem or outcome)[:300]


def fuzz(
    reader: Reader, folder: Path, seconds: float, seed: int = 0, executions: int | None = None
) -> Findings:
    """Mutate and read files for some seconds of CPU time, or a number of times."""
    draws = random.Random(f"{seed} {reader.name}")
    found = Findings(reader.name)
    intact = folder / "intact"
    work = folder / "work"
    intact.mkdir(parents=True)
    reader.write(intact)
    shutil.copytree(intact, work, symlinks=True)
    reader.read(work)  # the valid files can be read
    paths = sorted(path for pattern in reader.files for path in intact.glob(pattern))
    corpus = {path: [path.read_bytes()] for path in paths}
    named = sorted(path for pattern in reader.rename for path in intact.glob(pattern))
    seen: set[str] = set()
    began = time.process_time()
    while (
        found.executions < executions
        if executions is not None
        else time.process_time() - began < seconds
    ):
        # Change the content of a file, or sometimes a name.
        path = draws.choice(paths)
        target = work / path.relative_to(intact)
        content = mutated(draws.choice(corpus[path]), draws, corpus[draws.choice(paths)])
        renamed = _rename(draws, work, intact, named) if draws.random() < 0.1 else None
        if target.parent.exists():  # its folder may be the one that was renamed
            target.write_bytes(content)
        names = (target.name, target.stem, *((renamed.name,) if renamed else ()))
        problem, outcome = problem_of(reader, work, names)
        found.executions += 1
        # Keep what leads to a new outcome, and report a new problem once.
        if outcome not in seen:
            seen.add(outcome)
            if len(corpus[path]) < MAX_CORPUS and len(content) < MAX_CONTENT:
                corpus[path].append(content)
            if problem:
                example = folder / f"finding-{len(found.problems)}-{path.name}"
                example.write_bytes(content)
                found.problems[problem] = str(example) + (f" as {renamed}" if renamed else "")
        # Bring back the valid files.
        if renamed or problem or draws.random() < 0.01:
            shutil.rmtree(work)
            shutil.copytree(intact, work, symlinks=True)
        else:
            shutil.copy2(path, target)
    found.seconds = time.process_time() - began
    return found


def _rename(draws: random.Random, work: Path, intact: Path, named: list[Path]) -> Path | None:
    """Change the name of a file or folder; return the new path."""
    if not named:
        return None
    path = work / draws.choice(named).relative_to(intact)
    if not path.exists():
        return None
    data = mutated(path.name.encode(), draws, [])[:200].replace(b"/", b"").replace(b"\0", b"")
    name = os.fsdecode(data)
    target = path.parent / name
    if name in ("", ".", "..") or os.path.lexists(target):
        return None
    path.rename(target)
    return target


def in_child(reader: Reader, folder: Path, seconds: float, seed: int) -> Findings:
    """Fuzz a reader in a process of its own, so that a crash is a finding as well."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, resource.RLIM_INFINITY))
        theirs.send(fuzz(reader, folder, seconds, seed))

    process = context.Process(target=work)
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        process.join()
        found = Findings(reader.name)
        found.problems[f"the process ends with {process.exitcode}"] = str(folder / "work")
    process.join()
    return found


def main() -> int:
    """Run `make fuzz`; return the exit code."""
    from fuzz_readers import READERS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="CPU time for each reader.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="Only readers whose name has this text.")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    print(HEAD)
    problems = []
    for reader in READERS:
        if arguments.only not in reader.name:
            continue
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        found = in_child(reader, folder, arguments.seconds, arguments.seed)
        print(found.line(), flush=True)
        lines = [f"{reader.name}: {text}\n    {at}" for text, at in found.problems.items()]
        print("\n".join(lines), file=sys.stderr, flush=True)
        problems += lines
        if not found.problems:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

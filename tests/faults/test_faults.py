"""The table of faults: nothing is lost or silently wrong, and a broken writer or reader shows."""

import io
import logging
import os
import subprocess
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_damage import CHECKPOINT, Subject, damage_kinds, flips
from fault_points import Operation
from fault_ranks import rank_kinds
from fault_table import Kind, Outcome, judge, problems, run_kinds
from fault_writers import WRITERS, Writer, kills, power_losses, writer_kinds

import configs.files

KINDS = [*writer_kinds(), *damage_kinds(), *rank_kinds()]


@pytest.fixture(autouse=True)
def _quiet():
    """Keep the log small: each fault logs a line."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def test_there_are_at_least_30_kinds_of_faults():
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 30


def test_no_fault_loses_a_result_or_makes_it_silently_wrong():
    rows = list(run_kinds(KINDS, full=False))
    assert problems(rows) == []
    assert all(row.injections for row in rows)


def write_text(text: str, folder: Path) -> None:
    configs.files.write_text(folder / "a.txt", text)


class InPlace(configs.files._File):
    """A file that is written in place, without a temporary name."""

    def __init__(self, path: Path):
        io.FileIO.__init__(self, path, "w")
        self._path = path
        self._advice = ""


def write_in_place(text: str, folder: Path) -> None:
    with io.BufferedWriter(InPlace(folder / "a.txt")) as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def write_unflushed(text: str, folder: Path) -> None:
    temporary = folder / "a.txt.tmp"
    with io.BufferedWriter(InPlace(temporary)) as file:
        file.write(text.encode())
    temporary.replace(folder / "a.txt")


def table_of(write: Any, kind: str) -> list[str]:
    """Return the problems of a writer of texts under one kind of fault."""
    writer = Writer(
        "text", partial(write, "old" * 100), partial(write, "new" * 100),
        lambda folder: (folder / "a.txt").read_text(),
    )  # fmt: skip
    inject = {
        "kill": partial(kills, "write", writers=[writer]),
        "data": partial(power_losses, "data", writers=[writer]),
        "names": partial(power_losses, "names", writers=[writer]),
    }[kind]
    return problems(list(run_kinds([Kind(kind, inject, 100, 100)], full=False)))


@pytest.mark.parametrize("kind", ["kill", "data", "names"])
def test_the_atomic_writer_survives(kind):
    assert table_of(write_text, kind) == []


@pytest.mark.parametrize(
    ("write", "kind"),
    [(write_in_place, "kill"), (write_unflushed, "data"), (write_unflushed, "names")],
)
def test_a_writer_without_a_rename_or_a_flush_turns_the_table_red(write, kind):
    assert table_of(write, kind)


def test_a_reader_without_crcs_turns_the_table_red():
    def read(folder: Path) -> str:
        path = folder / "checkpoints" / "step-00000002-a01.pt"
        try:
            state = torch.load(path, weights_only=True)
        except Exception as error:
            raise configs.files.WriteError(f"{path}: {error}") from None
        return str([(name, tensor.tolist()) for name, tensor in state["model"].items()])

    blind = Subject("blind reader", CHECKPOINT.write, read, CHECKPOINT.files)
    found = problems(list(run_kinds([Kind("flips", partial(flips, blind), 40, 40)], full=False)))
    assert any("silently wrong" in text for text in found)


def test_a_raw_error_and_a_wrong_value_are_problems():
    def crash() -> str:
        raise KeyError("x")

    assert judge(crash, ["", "a"]) == Outcome("raw error", "KeyError: 'x'")
    assert judge(lambda: "b", ["a", ""]).problem.startswith("silently wrong: 'b'")
    assert judge(lambda: "a", ["a"]) == Outcome("harmless")


def test_each_promised_file_is_flushed_before_its_rename_and_its_folder_after(strace, tmp_path):
    """One process runs all writers; strace shows the order of its system calls."""
    trace = tmp_path / "trace"
    calls = "trace=write,fsync,rename,renameat,renameat2"
    command = [strace, "-f", "--seccomp-bpf", "-y", "-s", "0", "-e", calls, "-o", str(trace)]
    paths = os.pathsep.join(filter(None, sys.path))
    subprocess.run(
        [*command, sys.executable, "-c", "import test_faults; test_faults.write_all()", tmp_path],
        check=True, env={**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{paths}"},
    )  # fmt: skip
    done = [call for line in trace.read_text().splitlines() if (call := parse_call(line, tmp_path))]
    renames = [call for call in done if call.kind == "rename"]
    assert len({Path(call.target).name for call in renames}) >= 15
    assert unsafe_renames(done) == []


def test_a_missing_flush_is_seen_in_the_order_of_calls():
    write = Operation("write", "/d/.a.tmp")
    flush = Operation("fsync", "/d/.a.tmp")
    rename = Operation("rename", "/d/.a.tmp", "/d/a")
    folder = Operation("fsync", "/d")
    assert unsafe_renames([write, flush, rename, folder]) == []
    assert unsafe_renames([write, rename, folder]) == ["/d/a: renamed before its flush"]
    assert unsafe_renames([write, flush, rename]) == ["/d/a: its folder is not flushed"]
    assert unsafe_renames([flush, write, rename, folder]) == ["/d/a: renamed before its flush"]


def write_all() -> None:
    """Run all writers below the folder of the command line."""
    torch.set_num_threads(1)
    for writer in WRITERS:
        folder = Path(sys.argv[1], writer.name.replace("/", "-"))
        folder.mkdir()
        writer.prepare(folder)
        writer.write(folder)


def parse_call(line: str, folder: Path) -> Operation | None:
    """Return the operation of a line of strace; None if it does not concern `folder`."""
    name, _, arguments = line.partition(" ")[2].strip().partition("(")
    if str(folder) not in arguments or "= -1" in arguments:
        return None
    if name.startswith("rename"):
        source, target = [part for part in arguments.split('"') if part.startswith("/")]
        return Operation("rename", source, target)
    return Operation(name, arguments.partition("<")[2].partition(">")[0])


def unsafe_renames(done: list[Operation]) -> list[str]:
    """Return the renames of files that were not flushed before, or whose folder was not after."""
    dirty: dict[str, bool] = defaultdict(bool)
    unflushed: dict[str, str] = {}
    found = []
    for operation in done:
        if operation.kind == "write":
            dirty[operation.path] = True
        elif operation.kind == "fsync":
            dirty[operation.path] = False
            unflushed = {t: folder for t, folder in unflushed.items() if folder != operation.path}
        else:
            if dirty.pop(operation.path, False):
                found.append(f"{operation.target}: renamed before its flush")
            unflushed[operation.target] = str(Path(operation.target).parent)
    return found + [f"{target}: its folder is not flushed" for target in unflushed]

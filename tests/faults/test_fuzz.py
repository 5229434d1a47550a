"""A short round of the fuzzers, and proof that they notice a bad reader."""

import json
import logging
import os
import resource
import time
from pathlib import Path

import fuzz as fuzzers
import pytest
from fuzz import Findings, Reader, fuzz, in_child, problem_of
from fuzz_readers import READERS

from configs.small_files import DamagedFileError

EXECUTIONS = 40
SLOW = ("report", "models")


@pytest.fixture(autouse=True)
def _quiet():
    """Keep the log small: most of the mutated files log a line."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@pytest.mark.filterwarnings("ignore")
def test_a_mutated_file_is_read_or_named(reader, tmp_path):
    count = EXECUTIONS // 10 if reader.name.startswith(SLOW) else EXECUTIONS
    found = fuzz(reader, tmp_path, seconds=0, seed=1, executions=count)
    assert found.problems == {}
    assert found.executions == count


def reader_of(read) -> Reader:
    """Return a reader of one JSON file."""
    return Reader("bad", lambda folder: (folder / "a.json").write_text('{"a": 1}'), read, ("*",))


def test_a_raw_error_is_found(tmp_path):
    bad = reader_of(lambda folder: json.loads((folder / "a.json").read_bytes()))
    found = fuzz(bad, tmp_path, seconds=0, executions=100)
    assert any("raw JSONDecodeError" in text for text in found.problems)


def test_an_error_without_the_name_of_the_file_is_found(tmp_path):
    def read(folder: Path) -> None:
        raise DamagedFileError("something is wrong")

    problem, _ = problem_of(reader_of(read), tmp_path, ("a.json",))
    assert problem.startswith("no file is named")


def test_a_reader_that_waits_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzzers, "WALL_LIMIT_S", 1)
    assert problem_of(reader_of(lambda _: time.sleep(9)), tmp_path, ())[0] == "hangs"


def test_a_reader_that_takes_memory_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzzers, "MAX_MEMORY", 1 << 20)
    # The system counts the peak of a process, so take more than all tests before this one.
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    many = reader_of(lambda _: len(bytearray(b"x" * (peak // 2 + (1 << 26)))))
    assert problem_of(many, tmp_path, ())[0].startswith("takes ")


def test_a_crash_is_found(tmp_path):
    bad = reader_of(lambda folder: "1" in (folder / "a.json").read_text("latin-1") or os._exit(7))
    found = in_child(bad, tmp_path / "fuzz", 60, 0)
    assert isinstance(found, Findings)
    assert list(found.problems) == ["the process ends with 7"]

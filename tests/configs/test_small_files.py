"""Small files of others: regular files only, bounded, and each error names the file."""

import json
import os
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from configs.small_files import DamagedFileError, read_bytes, read_json, read_record


@dataclass(frozen=True)
class Record:
    """A record for these tests."""

    name: str
    time: float = 0.0


RECORD = TypeAdapter(Record)
unlimited = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200
)


@unlimited
@given(data=st.binary(max_size=60) | st.text().map(str.encode))
def test_any_bytes_give_an_object_or_an_error_that_names_the_file(tmp_path, data):
    path = tmp_path / "file.json"
    path.write_bytes(data)
    try:
        assert isinstance(read_json(path), dict)
    except DamagedFileError as error:
        assert str(path) in str(error)


@unlimited
@given(
    values=st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=9,
    )
)
def test_any_json_gives_a_record_or_an_error_that_names_the_file(tmp_path, values):
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"name": values, "time": values}))
    try:
        found = read_record(path, RECORD)
    except DamagedFileError as error:
        assert str(path) in str(error)
    else:
        assert isinstance(found.name, str)


@pytest.mark.parametrize(
    "text", ["NaN", "[1]", '{"a": Infinity}', '{"a": 1e999}', "[" * 100_000, '{"a": ' * 100_000]
)
def test_json_that_is_not_a_plain_object_is_rejected(tmp_path, text):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(DamagedFileError, match=r"file\.json"):
        read_json(tmp_path / "file.json")


def test_links_fifos_and_large_files_are_rejected(tmp_path):
    target = tmp_path / "target.json"
    target.write_text("{}")
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("link", "fifo", "device"):
        with pytest.raises(DamagedFileError, match=name):
            read_json(tmp_path / name)
    with pytest.raises(DamagedFileError, match="is not a regular file"):
        read_bytes(tmp_path / "device")
    with pytest.raises(DamagedFileError, match="more than 1 bytes"):
        read_bytes(target, max_bytes=1)


def test_a_record_names_the_field_of_another_type(tmp_path):
    (tmp_path / "file.json").write_text('{"name": "x", "time": "soon"}')
    with pytest.raises(DamagedFileError, match=r"file\.json: time: Input should be"):
        read_record(tmp_path / "file.json", RECORD)


def test_json_that_is_nested_deeply_is_rejected(tmp_path):
    """Python reads 900 levels, and code that visits them fails with a RecursionError."""
    (tmp_path / "file.json").write_text('{"name": ' + "[" * 900 + "]" * 900 + "}")
    with pytest.raises(DamagedFileError, match=r"file\.json: .*nested more than 100 levels"):
        read_record(tmp_path / "file.json", RECORD)

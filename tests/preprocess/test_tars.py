"""Hostile shards: only plain members are read, and no size is believed before it is checked."""

import io
import json
import tarfile
from dataclasses import asdict, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_shards import record, write_shard

from preprocess.tars import ShardError, read_shard

JPEG = b"jpeg" * 40


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "train-00000.tar"
    write_shard(path, [(record("a"), [JPEG, JPEG]), (record("b"), [JPEG])])
    return path


def members(path, *infos: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT) -> None:
    """Write a tar file of any members."""
    with tarfile.open(path, "w", format=form) as tar:
        for info, data in infos:
            info.size = info.size or len(data)
            tar.addfile(info, io.BytesIO(data))


def text_of(description, **changes) -> bytes:
    """Return the .json of a record with one frame."""
    filled = replace(description, offsets=(0,), crcs=(1,), size=len(JPEG))
    return json.dumps(asdict(filled) | changes).encode()


def test_records_are_read_with_the_start_of_their_frames(shard):
    found = [(item.key, start, item.size) for item, start in read_shard(shard)]
    assert [key for key, _, _ in found] == ["a", "b"]
    for _, start, size in found:
        assert shard.read_bytes()[start : start + size].replace(b"jpeg", b"") == b""


def test_a_sparse_a_linked_and_an_extended_member_are_rejected(tmp_path):
    link = tarfile.TarInfo("a.mjpeg")
    link.type = tarfile.SYMTYPE
    link.linkname = "/etc/passwd"
    sparse = tarfile.TarInfo("a.mjpeg")
    sparse.type = tarfile.GNUTYPE_SPARSE
    for info in (link, sparse):
        members(tmp_path / "x.tar", (info, b""))
        with pytest.raises(ShardError, match="is not a regular file"):
            list(read_shard(tmp_path / "x.tar"))
    extended = tarfile.TarInfo("a.mjpeg")
    extended.pax_headers = {"comment": "x" * 100_000}
    members(tmp_path / "x.tar", (extended, JPEG), form=tarfile.PAX_FORMAT)
    with pytest.raises(ShardError, match="is not a regular file"):
        list(read_shard(tmp_path / "x.tar"))


def test_an_announced_size_is_compared_with_the_file_before_memory_is_taken(tmp_path):
    info = tarfile.TarInfo("a.mjpeg")
    info.size = 8**11 - 1
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    with pytest.raises(ShardError, match="is truncated: it announces 8589934591 bytes"):
        list(read_shard(tmp_path / "x.tar"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"width": 0}, "width"),
        ({"height": 65536}, "height"),
        ({"crcs": [2**32]}, "crcs.0"),
        ({"crcs": [-1]}, "crcs.0"),
        ({"source_frames": 2**31}, "source_frames"),
        ({"fps": -1.0}, "fps"),
        ({"key": "b"}, "describes 'b'"),
    ],
)
def test_a_record_out_of_range_is_rejected(tmp_path, changes, reason):
    one = tarfile.TarInfo("a.mjpeg")
    two = tarfile.TarInfo("a.json")
    members(tmp_path / "x.tar", (one, JPEG), (two, text_of(record("a"), **changes)))
    with pytest.raises(ShardError, match=reason):
        list(read_shard(tmp_path / "x.tar"))


def test_a_key_that_occurs_twice_is_rejected(tmp_path):
    write_shard(tmp_path / "x.tar", [(record("a"), [JPEG]), (record("a"), [JPEG])])
    with pytest.raises(ShardError, match="key a occurs twice"):
        list(read_shard(tmp_path / "x.tar"))


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200
)
@given(position=st.floats(0, 1), flips=st.binary(min_size=1, max_size=30), cut=st.booleans())
def test_a_fuzzed_shard_is_read_or_named(shard, tmp_path, position, flips, cut):
    data = bytearray(shard.read_bytes())
    at = int(position * (len(data) - 1))
    data[at : at + len(flips)] = flips
    path = tmp_path / "fuzzed.tar"
    path.write_bytes(data[: at + 1] if cut else data)
    try:
        found = list(read_shard(path))
    except ShardError as error:
        assert "fuzzed.tar" in str(error)
    else:
        assert [item.key for item, _ in found] == ["a", "b"]

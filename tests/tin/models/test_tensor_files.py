"""Files of tensors: every damaged byte is found, and a new file is read back before it counts."""

import os
import random
import time
import zipfile
from pathlib import Path

import pytest
import torch

from configs.files import WriteError
from tin.models.tensor_files import (
    TensorFileError,
    check_members,
    first_not_finite,
    read_tensors,
    write_tensors,
)

NUM_FLIPS = 500


def content() -> dict:
    return {"model": {"a": torch.randn(40, 7), "b": torch.arange(9)}, "epoch": 3, "names": ["x"]}


def equal(one: dict, two: dict) -> bool:
    same = [torch.equal(one["model"][name], two["model"][name]) for name in ("a", "b")]
    return all(same) and one.keys() == two.keys() and one["names"] == two["names"]


def test_each_of_500_flipped_bits_is_found_or_changes_nothing(tmp_path: Path):
    path = tmp_path / "file.pt"
    wanted = content()
    write_tensors(path, wanted)
    data = path.read_bytes()
    draws = random.Random(0)
    num_found = 0
    num_loaded_by_torch = 0
    for _ in range(NUM_FLIPS):
        flipped = bytearray(data)
        flipped[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
        path.write_bytes(flipped)
        try:
            found = read_tensors(path)
        except TensorFileError:
            num_found += 1
            try:
                torch.load(path, weights_only=True)
                num_loaded_by_torch += 1
            except Exception:
                pass
        else:
            assert equal(found, wanted), "a flipped bit changed what is read, without an error"
    # Padding between members takes most of such a small file; it holds nothing.
    assert num_found > NUM_FLIPS / 4
    assert num_loaded_by_torch > 0, "torch found all of them: this module is no longer needed"


def test_a_cut_or_overwritten_file_is_found(tmp_path: Path):
    path = tmp_path / "file.pt"
    write_tensors(path, content())
    data = path.read_bytes()
    for damaged in (b"", data[: len(data) // 2], data[:-1], os.urandom(len(data)), b"PK\3\4"):
        path.write_bytes(damaged)
        with pytest.raises(TensorFileError):
            read_tensors(path)
        with pytest.raises(TensorFileError):
            check_members(path)


def test_files_that_torch_wrote_without_crcs_are_read(tmp_path: Path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content(), tmp_path / "file.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_tensors(tmp_path / "file.pt")["epoch"] == 3


def test_a_fifo_does_not_block(tmp_path: Path):
    os.mkfifo(tmp_path / "file.pt")
    with pytest.raises(TensorFileError, match="is not a regular file"):
        read_tensors(tmp_path / "file.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_tensors_that_are_not_finite_are_named_and_not_written(tmp_path: Path, value: float):
    wrong = content()
    wrong["ema"] = {"c": torch.tensor([1.0, value])}
    assert first_not_finite(wrong) == "ema.c"
    assert first_not_finite(content()) == ""
    path = tmp_path / "file.pt"
    write_tensors(path, content())
    with pytest.raises(TensorFileError, match=r"tensor ema\.c has NaN or infinite values"):
        write_tensors(path, wrong)
    assert read_tensors(path).keys() == content().keys()


def test_a_file_that_reads_back_differently_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "file.pt"
    write_tensors(path, content())
    save = torch.save

    def rotting(values: object, file) -> None:
        save(values, file)
        file.flush()
        with Path(file.name).open("r+b") as again:
            again.seek(len(path.read_bytes()) // 2)
            again.write(b"rot")

    monkeypatch.setattr("torch.save", rotting)
    with pytest.raises(WriteError, match="the disk returns other bytes than were written"):
        write_tensors(path, {**content(), "epoch": 4})
    assert read_tensors(path)["epoch"] == 3
    assert [file.name for file in tmp_path.iterdir()] == ["file.pt"]


def test_a_tensor_that_is_larger_than_its_bytes_is_rejected(tmp_path: Path):
    """A checkpoint of 1 KB can name a tensor of 10^12 elements, whose check would never end."""
    path = tmp_path / "file.pt"
    torch.save({"model": {"w": torch.ones(1).expand(10**12)}}, path)
    with pytest.raises(TensorFileError, match=r"tensor model\.w has more elements than the file"):
        read_tensors(path)


@pytest.mark.parametrize(
    "tensor", [torch.ones(3, 3).to_sparse(), torch.ones(3, device="meta")], ids=["sparse", "meta"]
)
def test_a_tensor_that_is_not_dense_is_rejected(tmp_path: Path, tensor):
    torch.save({"model": [tensor]}, tmp_path / "file.pt")
    with pytest.raises(TensorFileError, match=r"tensor model\.0 is not dense"):
        read_tensors(tmp_path / "file.pt")


def test_a_container_that_repeats_is_visited_once():
    repeated: list = [torch.ones(2)]
    for _ in range(60):  # 2^60 tensors if each repeat is visited
        repeated = [repeated, repeated]
    assert first_not_finite(repeated) == ""
    endless: list = []
    endless.append(endless)
    assert first_not_finite(endless) == ""


def test_numbers_of_8_bits_are_checked():
    good = torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn)
    bad = torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)
    assert (first_not_finite({"w": good}), first_not_finite({"w": bad})) == ("", "w")


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_name_that_torch_would_search_for_minutes_is_rejected_quickly(tmp_path: Path, is_zip):
    """torch forms a message about a class that it does not allow, and searches the message."""
    path = tmp_path / "file.pt"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=is_zip)
    name = b"c" + b"x" * 200_000 + b"\ny\n."
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            members = {member: archive.read(member) for member in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, name if member.endswith("data.pkl") else content)
    else:
        path.write_bytes(path.read_bytes().replace(b"}q\x00X\x01", name, 1))
        assert len(path.read_bytes()) > len(name)
    began = time.process_time()
    with pytest.raises(TensorFileError, match=r"more than 20,000 characters"):
        read_tensors(path)
    assert time.process_time() - began < 5


def test_a_description_above_the_bound_is_named(tmp_path: Path, monkeypatch):
    torch.save({"a": torch.ones(2)}, tmp_path / "file.pt")
    monkeypatch.setattr("tin.models.tensor_files.MAX_PICKLE_BYTES", 10)
    with pytest.raises(TensorFileError, match=r"data\.pkl has \d+ bytes, expected at most 10"):
        read_tensors(tmp_path / "file.pt")

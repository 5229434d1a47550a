"""Reads and writes files of tensors: atomic writes, and reads that find every damaged byte."""

import io
import os
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch
from torch import Tensor

from configs.errors import TinError
from configs.files import WriteError, atomic_file
from configs.small_files import open_regular

BLOCK_BYTES = 1 << 20
MAX_PICKLE_BYTES = 1 << 28
"""Most bytes that describe the tensors of a file; those of a checkpoint take 0.1 MB."""
LEGACY_PICKLES = 5
"""Pickles before the tensors of a file that is no zip file."""
LONG = re.compile(r"\S{20001}")
"""torch.load searches its error messages, and takes minutes if they quote a text like this."""


class TensorFileError(TinError, ValueError):
    """A file of tensors that is damaged, or tensors that are NaN or infinite; says which."""

    is_final = True


def write_tensors(
    path: Path,
    content: Mapping[str, Any],
    *,
    check: Callable[[], None] | None = None,
    advice: str = "",
) -> None:
    """Write `content` with ``torch.save`` so that `path` holds all of it or stays as it was.

    The new file is read back from the disk before it takes the place of the old one.

    Args:
        path: the file to write; its folder must exist.
        content: tensors, numbers, text, and lists and dicts of these.
        check: called just before the rename; see `configs.files.atomic_file`.
        advice: a sentence for the error message that says what is still intact or what to run.

    Raises:
        TensorFileError: a tensor has NaN or infinite values.
        WriteError: the disk is full or not writable; names the file, the reason and what to do.
    """
    name = first_not_finite(content)
    if name:
        raise TensorFileError(
            f"{path} is not written: tensor {name} has NaN or infinite values. {advice}".strip()
        )

    def read_back(temporary: Path) -> None:
        try:
            check_members(temporary)
        except TensorFileError as error:
            raise WriteError(
                f"cannot write {path}: the disk returns other bytes than were written ({error})."
                f" {advice} Check the disk."
            ) from None

    try:
        with atomic_file(path, check=check, verify=read_back, advice=advice) as file:
            torch.save(content, file)
    except RuntimeError as error:
        # When a write fails, torch still tries to close its archive. That fails as well, with a
        # RuntimeError about positions in the archive, which hides why the write failed.
        raise _reason(error) or WriteError(f"cannot write {path}: {error}. {advice}") from error


def read_tensors(path: Path) -> Any:
    """Return the content of a file of tensors on the CPU, after comparing its checksums.

    torch itself ignores the CRCs in the file, so it loads damaged tensors without an error.

    Raises:
        FileNotFoundError: there is no such file.
        TensorFileError: the file is damaged, or has objects other than tensors, numbers and text.
    """
    try:
        with open_regular(path) as file:
            is_zip = _check_crcs(file)
            _check_texts(file, is_zip)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
        for name, tensor in _tensors(content, "", set()):
            _check_dense(name, tensor)
        return content
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile and torch.load raise many types for a damaged file
        raise TensorFileError(_short(error)) from None


def check_members(path: Path) -> None:
    """Compare the CRC of each member of a file of tensors, read from the disk, not from memory.

    Raises:
        TensorFileError: the file is damaged.
    """
    try:
        with open_regular(path) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if not _check_crcs(file):
                raise TensorFileError("it is not a zip file")
    except TensorFileError:
        raise
    except Exception as error:  # zipfile raises many types for a damaged file
        raise TensorFileError(_short(error)) from None


def first_not_finite(content: Any) -> str:
    """Return the name of the first tensor with NaN or infinite values; empty if there is none."""
    for name, tensor in _tensors(content, "", set()):
        if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
            continue
        values = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
        if values.element_size() == 1:  # torch does not compare numbers of 8 bits
            values = values.float()
        # The minimum and maximum of values with a NaN are NaN, and they need no copy of the tensor.
        low, high = torch.aminmax(values)
        if not (torch.isfinite(low) & torch.isfinite(high)):
            return name
    return ""


def _check_dense(name: str, tensor: Tensor) -> None:
    """Raise TensorFileError for a tensor that is not as large as its bytes in the file.

    A few bytes can stand for a tensor of any size, which would take forever to check.
    """
    is_plain = tensor.layout == torch.strided and not (
        tensor.is_meta or tensor.is_quantized or tensor.is_nested
    )
    if not is_plain:
        raise TensorFileError(f"tensor {name} is not dense")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise TensorFileError(f"tensor {name} has more elements than the file has for it")


def _tensors(content: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested dicts and lists with their dotted names.

    `seen` has the containers that were visited: a file may name the same one any number of times.
    """
    if isinstance(content, Tensor):
        yield name, content
        return
    if not isinstance(content, (Mapping, list, tuple)) or id(content) in seen:
        return
    seen.add(id(content))
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key), seen)
    else:
        for index, value in enumerate(content):
            yield from _tensors(value, f"{name}.{index}", seen)


def _check_crcs(file: BinaryIO) -> bool:
    """Compare the CRC of each member; return False for a file that is not a zip file.

    Files that torch wrote without CRCs have the CRC 0 in all members, which cannot be compared.
    """
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if all(member.CRC == 0 for member in members):
            return True
        for member in members:
            with archive.open(member) as content:
                while content.read(BLOCK_BYTES):
                    pass
    return True


def _check_texts(file: BinaryIO, is_zip: bool) -> None:
    """Raise TensorFileError for a file with a text or a name that torch.load must not quote."""
    file.seek(0)
    if not is_zip:
        for _ in range(LEGACY_PICKLES):
            _check_pickle(file)
        return
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.filename.endswith("data.pkl"):
                if member.file_size > MAX_PICKLE_BYTES:
                    raise TensorFileError(
                        f"{member.filename} has {member.file_size} bytes, expected at most"
                        f" {MAX_PICKLE_BYTES}"
                    )
                del member.CRC  # it was compared before, or torch wrote none
                with archive.open(member) as content:
                    _check_pickle(io.BytesIO(content.read(MAX_PICKLE_BYTES)))


def _check_pickle(stream: IO[bytes]) -> None:
    """Read one pickle without executing it; raise TensorFileError for such a text."""
    for _, text, _ in pickletools.genops(stream):
        if isinstance(text, str) and LONG.search(text):
            raise TensorFileError("it has a text of more than 20,000 characters without a space")


def _short(error: Exception) -> str:
    """Return the first line of an error of torch or zipfile, which may be empty, with its type."""
    text = str(error).split("\n")[0].split(". ")[0]
    return f"{type(error).__name__}: {text}"


def _reason(error: BaseException) -> WriteError | None:
    """Return the failed write that led to `error`; None if there was none."""
    earlier = error.__context__
    while earlier is not None and not isinstance(earlier, WriteError):
        earlier = earlier.__context__
    return earlier

"""Reads files of several arrays, as ``np.savez`` writes them; damaged bytes are found."""

import sys
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from configs.small_files import open_regular


def read_arrays(
    path: Path, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Return arrays of a file by their names, after comparing the CRCs of the file.

    Args:
        path: the file.
        names: arrays that the file must have.
        optional: arrays that the file may have.

    Raises:
        FileNotFoundError: there is no such file.
        Exception: the file is damaged; numpy and zipfile raise many types.
    """
    with open_regular(path) as stream:
        # numpy compares the CRC only of an array that it reads to its end, so check all first.
        with ZipFile(stream) as archive:
            packed = [member.filename for member in archive.infolist() if member.compress_type]
            if packed:  # such members could take any amount of memory
                raise ValueError(f"{packed[0]} is compressed, expected an array of np.savez")
            damaged = archive.testzip()
            if damaged:
                raise ValueError(f"the CRC of {damaged} is wrong")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as file:
            wanted = [*names, *(name for name in optional if name in file.files)]
            arrays = {name: file[name] for name in wanted}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy returns the bytes of another file
            raise ValueError(f"{name} is not an array")
        _check_texts(array, name)
    return arrays


def _check_texts(array: np.ndarray, name: str) -> None:
    """Raise ValueError if a text has a code that is no character, which numpy reads silently."""
    if array.dtype.kind != "U" or not array.nbytes:
        return
    codes = np.ascontiguousarray(array).view(array.dtype.str[0] + "u4")
    if (codes > sys.maxunicode).any() or ((codes >= 0xD800) & (codes <= 0xDFFF)).any():
        raise ValueError(f"{name} has a text that is not Unicode")

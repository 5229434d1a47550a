"""SHA-256 digests of files, and the files `<name>.sha256` that hold them, as `sha256sum` makes."""

import hashlib
from pathlib import Path

from configs.files import write_text
from configs.small_files import open_regular, read_bytes


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_path(path: Path) -> Path:
    """Return the file beside `path` that holds its digest."""
    return path.with_name(f"{path.name}.sha256")


def write_digest(path: Path, digest: str) -> None:
    """Write the digest of a file beside it."""
    write_text(digest_path(path), f"{digest}  {path.name}\n")


def read_digest(path: Path) -> str:
    """Return the digest that stands beside a file; empty if the file of the digest is damaged.

    Raises:
        FileNotFoundError: no digest stands beside it.
        DamagedFileError: the file of the digest cannot be read.
    """
    words = read_bytes(digest_path(path)).decode("ascii", "replace").split()
    return words[0] if words else ""

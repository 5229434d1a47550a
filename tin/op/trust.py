"""Decides whether a compiled library may be loaded, because its code runs in every process."""

import os
import pwd
import stat
from pathlib import Path

from configs.digests import digest_path, file_digest, read_digest
from configs.errors import TinError
from configs.load import load_site

ROOT = 0
"""Number of the user root."""


class BuildError(TinError):
    """The operator cannot be compiled, trusted or loaded, or is not compiled; says what to do."""


def check_trust(path: Path) -> None:
    """Check that nobody but a trusted user can have changed a library, and that nothing has.

    The library and its folder must belong to this user, to root, or to an owner that site.yaml
    lists under `trusted_owners`. They must not be writable for everybody, and the library must have
    the digest that stands beside it.

    Raises:
        BuildError: one of these does not hold.
    """
    trusted = {ROOT, os.getuid(), *map(_user_id, load_site().trusted_owners)}
    for place in (path.parent, path):
        facts = place.stat()
        if facts.st_mode & stat.S_IWOTH:
            raise BuildError(
                f"{place} is writable for everybody, so its code is not loaded; run"
                f" `chmod o-w {place}`, then remove {path} and run `tin op build`"
            )
        if facts.st_uid not in trusted:
            raise BuildError(
                f"{place} belongs to user {_user_name(facts.st_uid)}, so its code is not loaded;"
                " run `tin op build` with a cache of your own, or list the user in site.yaml under"
                " trusted_owners"
            )
    if not is_complete(path):
        raise BuildError(f"{path} has no digest beside it; run `tin op build` again")
    if file_digest(path) != read_digest(path):
        raise BuildError(
            f"{path} does not have the digest beside it, so it is damaged; remove it and run"
            " `tin op build`"
        )


def is_complete(path: Path) -> bool:
    """Return whether a library and its digest exist."""
    return path.exists() and digest_path(path).exists()


def _user_id(owner: str) -> int:
    """Return the number of a user; -1, which no user has, if there is no such user here."""
    try:
        return int(owner) if owner.isdecimal() else pwd.getpwnam(owner).pw_uid
    except KeyError:
        return -1


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)

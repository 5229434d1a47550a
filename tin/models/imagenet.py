"""ImageNet weights: downloaded into the cache where there is a network, read from it everywhere."""

import contextlib
import hashlib
import http.client
import logging
import urllib.request
from pathlib import Path
from typing import BinaryIO

from configs.digests import digest_path, file_digest, read_digest, write_digest
from configs.errors import TinError
from configs.files import WriteError, atomic_file
from configs.load import ConfigError, cache_path
from configs.schema import Config

log = logging.getLogger(__name__)

SOURCE = "https://download.pytorch.org/models"
# torchvision's first ImageNet weights of each network, from which the original code starts too.
# The eight hexadecimal digits in a name are the first digits of the file's SHA-256.
FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "resnet152": "resnet152-394f9c45.pth",
    "mobilenetv2": "mobilenet_v2-b0353104.pth",
}
TERMS = (
    "These weights were trained by the torchvision project (BSD-3-Clause) on ImageNet-1k. The"
    " terms of access of ImageNet allow non-commercial research and education. Check that they"
    " allow your use."
)
BLOCK_BYTES = 1 << 20
TIMEOUT_S = 60


class FetchError(TinError):
    """A file that could not be downloaded, or that is not the expected one; nothing is kept."""


def imagenet_path(arch: str) -> Path:
    """Return the file of a network's ImageNet weights in the cache, after checking its SHA-256.

    The digest of a file stands beside it. A file that was copied by hand is compared with the eight
    digits in its name, and its digest is then recorded.

    Raises:
        ConfigError: the file is not in the cache, or it has another digest.
    """
    path = _path(arch)
    if not path.exists():
        raise ConfigError(
            f"model.init imagenet: {path} does not exist. Run `tin weights fetch {arch}` on a"
            f" machine with a network (a login node), copy {SOURCE}/{path.name} there by hand, or"
            " train from random weights with model.init=none."
        )
    check_digest(path)
    return path


def check_digest(path: Path) -> None:
    """Compare a file of weights with the digest beside it or, the first time, with its name.

    Raises:
        ConfigError: the file has another digest.
    """
    found = file_digest(path)
    try:
        expected = read_digest(path)
        is_expected = found == expected
    except FileNotFoundError:
        expected = path.stem.rpartition("-")[2]
        is_expected = found.startswith(expected)
        if is_expected:
            with contextlib.suppress(WriteError):  # a shared cache may be read-only
                write_digest(path, found)
    if not is_expected:
        raise ConfigError(
            f"{path}: found SHA-256 {found}, expected {expected or 'a digest beside it'}; the file"
            f" is damaged or is a different file. Remove it and {digest_path(path).name}, then run"
            " `tin weights fetch` again."
        )


def initial_weights(config: Config) -> Path | None:
    """Return the file that `model.init` names; None for random weights.

    Raises:
        ConfigError: the file does not exist.
    """
    init = config.model.init
    if init == "none":
        return None
    path = imagenet_path(config.model.arch) if init == "imagenet" else Path(init).expanduser()
    if not path.exists():
        raise ConfigError(
            f"model.init {init}: this file does not exist. Name a checkpoint of this project or"
            " of a model zoo, or set model.init=imagenet or model.init=none."
        )
    return path


def fetch(arch: str, source: str = SOURCE) -> Path:
    """Download a network's ImageNet weights into the cache and return the file.

    A file that is already in the cache is not downloaded again.

    Args:
        arch: resnet18, resnet34, resnet50, resnet101, resnet152 or mobilenetv2.
        source: URL of the folder that holds the file: https, http or file.

    Raises:
        ConfigError: `arch` is not one of these networks.
        FetchError: the download fails, or the checksum of the file is wrong.
        WriteError: the cache is full or not writable.
    """
    if arch not in FILES:
        raise ConfigError(f"{arch} has no ImageNet weights here; choose one of {', '.join(FILES)}")
    path = _path(arch)
    if path.exists():
        check_digest(path)
        log.info("%s is already in the cache", path)
        return path
    url = f"{source.rstrip('/')}/{path.name}"
    log.info("downloading %s to %s\n%s", url, path, TERMS)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        digest = _download(url, file, path.parent)
        expected = path.stem.rpartition("-")[2]
        if not digest.startswith(expected):
            raise FetchError(
                f"{url}: found SHA-256 {digest[:8]}..., expected {expected}...; the file is"
                " damaged or is a different file"
            )
    write_digest(path, digest)
    return path


def _path(arch: str) -> Path:
    return cache_path() / "weights" / FILES[arch]


def _download(url: str, file: BinaryIO, folder: Path) -> str:
    """Copy the content of `url` to `file` and return its SHA-256.

    `folder` is where a user without a network has to put the file; the error message names it.
    """
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            while block := response.read(BLOCK_BYTES):
                digest.update(block)
                file.write(block)
    except WriteError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchError(
            f"cannot download {url}: {error}. If this machine has no network, download the file"
            f" on another machine and copy it to {folder}."
        ) from error
    return digest.hexdigest()

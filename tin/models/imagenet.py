"""ImageNet weights: fetched into the cache on a machine with a network, found there by all."""

import hashlib
import logging
import os
import urllib.error
import urllib.request
from pathlib import Path

from configs.load import ConfigError, cache_path

log = logging.getLogger(__name__)

SOURCE = "https://download.pytorch.org/models"
# torchvision's first ImageNet weights of each network, which the original starts from too. The
# eight digits in a name are the first of the file's SHA-256.
FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
}
TERMS = (
    "Trained by the torchvision project (BSD-3-Clause) on ImageNet-1k, whose terms of access"
    " allow non-commercial research and education; check that they allow your use."
)
BLOCK_BYTES = 1 << 20
TIMEOUT_S = 60


def imagenet_path(arch: str) -> Path:
    """Return the file of a network's ImageNet weights in the cache.

    Raises:
        ConfigError: it has not been fetched.
    """
    path = _path(arch)
    if not path.exists():
        raise ConfigError(
            f"model.init imagenet: {path} is absent; run `tin weights fetch {arch}` where there"
            f" is a network (a login node), copy {SOURCE}/{path.name} there by hand, or start"
            " from nothing with model.init=none"
        )
    return path


def fetch(name: str, source: str = SOURCE) -> Path:
    """Fetch a network's ImageNet weights into the cache, unless they are there; return the file.

    Args:
        name: resnet18, resnet34, resnet50 or resnet101.
        source: URL of the folder of the file, for a mirror: https, http or file.

    Raises:
        ConfigError: there is no such network.
        OSError: it cannot be fetched, or its checksum is wrong; nothing is kept then.
    """
    if name not in FILES:
        raise ConfigError(f"no ImageNet weights of {name}; there are {', '.join(FILES)}")
    path = _path(name)
    if path.exists():
        log.info("%s is there already", path)
        return path
    url = f"{source.rstrip('/')}/{path.name}"
    log.info("%s -> %s\n%s", url, path, TERMS)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        digest = _download(url, aside)
        expected = path.stem.rpartition("-")[2]
        if not digest.startswith(expected):
            raise OSError(
                f"{url}: SHA-256 {digest[:8]}... instead of {expected}...; the file is damaged or"
                " not the one it should be"
            )
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def _path(name: str) -> Path:
    return cache_path() / "weights" / FILES[name]


def _download(url: str, path: Path) -> str:
    """Write what `url` holds to `path` and return its SHA-256."""
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, path.open("wb") as file:
            while block := response.read(BLOCK_BYTES):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        raise OSError(
            f"{url}: cannot be fetched ({error}); where there is no network, fetch it on another"
            f" machine and copy it to {path.parent}"
        ) from error
    return digest.hexdigest()

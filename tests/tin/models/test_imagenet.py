"""Downloads of ImageNet weights, from a server on this machine."""

import hashlib
import resource
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from configs.files import WriteError
from configs.load import ConfigError
from tin.models.imagenet import FILES, FetchError, fetch, imagenet_path

CONTENT = b"weights" * 1000


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache, in which the file of resnet18 is expected to be CONTENT."""
    (tmp_path / "site.yaml").write_text(f"cache: {tmp_path / 'cache'}\n")
    monkeypatch.setenv("TIN_SITE", str(tmp_path / "site.yaml"))
    name = f"resnet18-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
    monkeypatch.setitem(FILES, "resnet18", name)
    return tmp_path / "cache"


@pytest.fixture
def mirror(tmp_path: Path, cache: Path) -> Path:
    """Return a folder with the file of resnet18."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / FILES["resnet18"]).write_bytes(CONTENT)
    return folder


@pytest.fixture
def server(mirror: Path) -> Iterator[str]:
    """Return the URL of the mirror."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=mirror)) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_weights_are_downloaded_into_the_cache_and_their_terms_are_logged(
    server: str, cache: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    path = fetch("resnet18", server)
    assert path == cache / "weights" / FILES["resnet18"] == imagenet_path("resnet18")
    assert path.read_bytes() == CONTENT
    assert f"{server}/{path.name}" in caplog.text
    assert "BSD-3-Clause" in caplog.text
    assert "non-commercial" in caplog.text


def test_a_mirror_may_be_a_folder(mirror: Path):
    assert fetch("resnet18", mirror.as_uri()).read_bytes() == CONTENT


def test_a_file_in_the_cache_is_not_downloaded_again(mirror: Path):
    path = fetch("resnet18", mirror.as_uri())
    assert fetch("resnet18", "http://127.0.0.1:1/nothing-listens-here") == path


def test_a_file_with_a_wrong_checksum_is_not_kept(server: str, mirror: Path, cache: Path):
    (mirror / FILES["resnet18"]).write_bytes(CONTENT + b"!")
    with pytest.raises(FetchError, match=r"found SHA-256 [0-9a-f]{8}\.\.\., expected "):
        fetch("resnet18", server)
    assert list((cache / "weights").iterdir()) == []


@pytest.mark.parametrize("source", ["http://127.0.0.1:1", "file:///nowhere", "no-scheme"])
def test_a_source_that_cannot_be_reached_says_what_to_do(cache: Path, source: str):
    with pytest.raises(FetchError, match="cannot download .* copy it to"):
        fetch("resnet18", source)
    assert list((cache / "weights").iterdir()) == []


def test_a_file_that_the_server_does_not_have_is_an_error(server: str, mirror: Path):
    (mirror / FILES["resnet18"]).unlink()
    with pytest.raises(FetchError, match="404"):
        fetch("resnet18", server)


def test_a_connection_that_breaks_is_an_error(cache: Path, monkeypatch: pytest.MonkeyPatch):
    class Broken:
        def __enter__(self) -> "Broken":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def read(self, size_bytes: int) -> bytes:
            raise ConnectionResetError("connection reset")

    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: Broken())
    with pytest.raises(FetchError, match=r"cannot download .*resnet18.*: connection reset"):
        fetch("resnet18")
    assert list((cache / "weights").iterdir()) == []


def test_a_full_cache_is_not_reported_as_a_failed_download(mirror: Path, cache: Path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(WriteError, match=f"cannot write {cache}.*: File too large"):
            fetch("resnet18", mirror.as_uri())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((cache / "weights").iterdir()) == []


def test_a_network_without_weights_is_rejected():
    with pytest.raises(ConfigError, match="resnet19 has no ImageNet weights here.*resnet18"):
        fetch("resnet19")


def test_a_file_copied_by_hand_is_checked_by_its_name_and_then_recorded(mirror: Path, cache: Path):
    path = cache / "weights" / FILES["resnet18"]
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert imagenet_path("resnet18") == path
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert path.with_name(f"{path.name}.sha256").read_text() == f"{digest}  {path.name}\n"
    path.write_bytes(CONTENT + b"x")
    with pytest.raises(ConfigError, match=f"found SHA-256 .*, expected {digest}"):
        imagenet_path("resnet18")


def test_a_damaged_file_copied_by_hand_is_rejected(mirror: Path, cache: Path):
    path = cache / "weights" / FILES["resnet18"]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="the file is damaged or is a different file"):
        imagenet_path("resnet18")
    assert not path.with_name(f"{path.name}.sha256").exists()


def test_a_downloaded_file_has_its_digest_beside_it(mirror: Path, cache: Path):
    path = fetch("resnet18", mirror.as_uri())
    assert path.with_name(f"{path.name}.sha256").exists()
    path.write_bytes(b"rot")
    with pytest.raises(ConfigError, match="the file is damaged"):
        fetch("resnet18", mirror.as_uri())


@pytest.mark.parametrize("length", [0, 5])
def test_a_digest_that_was_cut_short_does_not_fit(mirror: Path, cache: Path, length: int):
    path = fetch("resnet18", mirror.as_uri())
    record = path.with_name(f"{path.name}.sha256")
    record.write_text(record.read_text()[:length])
    with pytest.raises(ConfigError, match="found SHA-256 .*, expected .*; the file is damaged"):
        imagenet_path("resnet18")

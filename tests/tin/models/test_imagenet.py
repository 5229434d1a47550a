"""Fetching weights, from a server on this machine."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from configs.load import ConfigError
from tin.models import imagenet as fetching
from tin.models.imagenet import fetch, imagenet_path

CONTENT = b"weights" * 1000


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    (tmp_path / "site.yaml").write_text(f"cache: {tmp_path / 'cache'}\n")
    monkeypatch.setenv("TIN_SITE", str(tmp_path / "site.yaml"))
    name = f"resnet18-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
    monkeypatch.setitem(fetching.FILES, "resnet18", name)
    return tmp_path / "cache"


@pytest.fixture
def mirror(tmp_path, cache):
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / fetching.FILES["resnet18"]).write_bytes(CONTENT)
    return folder


@pytest.fixture
def server(mirror):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=mirror)) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_weights_are_fetched_into_the_cache_with_their_terms(server, cache, caplog):
    caplog.set_level("INFO")
    path = fetch("resnet18", server)
    assert path == cache / "weights" / fetching.FILES["resnet18"] == imagenet_path("resnet18")
    assert path.read_bytes() == CONTENT
    assert f"{server}/{path.name}" in caplog.text
    assert "BSD-3-Clause" in caplog.text
    assert "non-commercial" in caplog.text


def test_a_mirror_may_be_a_folder(mirror, cache):
    assert fetch("resnet18", mirror.as_uri()).read_bytes() == CONTENT


def test_what_is_in_the_cache_is_not_fetched_again(mirror, cache):
    path = fetch("resnet18", mirror.as_uri())
    assert fetch("resnet18", "http://127.0.0.1:1/nothing-listens-here") == path


def test_a_wrong_checksum_leaves_nothing_behind(server, mirror, cache):
    (mirror / fetching.FILES["resnet18"]).write_bytes(CONTENT + b"!")
    with pytest.raises(OSError, match=r"SHA-256 [0-9a-f]{8}\.\.\. instead of"):
        fetch("resnet18", server)
    assert list((cache / "weights").iterdir()) == []


@pytest.mark.parametrize("source", ["http://127.0.0.1:1", "file:///nowhere", "no-scheme"])
def test_a_source_that_cannot_be_reached_says_what_to_do(cache, source):
    with pytest.raises(OSError, match="cannot be fetched .* copy it to"):
        fetch("resnet18", source)
    assert list((cache / "weights").iterdir()) == []


def test_a_file_that_the_server_does_not_have_is_an_error(server, mirror, cache):
    (mirror / fetching.FILES["resnet18"]).unlink()
    with pytest.raises(OSError, match="404"):
        fetch("resnet18", server)


def test_unknown_weights_are_refused():
    with pytest.raises(ConfigError, match="no ImageNet weights of resnet19; there are resnet18"):
        fetch("resnet19")

"""The page of the report needs no other file, shows any text as text, and is readable."""

import base64
import gzip
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from written_runs import CLASSES, write_run, write_test

from launch.submission.snapshot import snapshot
from tin.evaluation.scores import Scores, save
from tin.reports.results import load_runs, write_report


class _Page(HTMLParser):
    """The tags and the text of a page, and what a browser would load from outside or run."""

    def __init__(self, text: str):
        super().__init__()
        self.outside: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.policy = ""
        self.styles: list[str] = []
        self.scripts: list[str] = []
        self.ids: list[str] = []
        self._in_script = False
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._in_style = tag == "style"
        if tag in ("link", "iframe", "object"):
            self.outside.append(tag)
        self._in_script = tag == "script" and dict(attrs).get("type") == "module"
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "style") and "//" in (value or ""):
                self.outside.append(value)
        self.ids += [value for name, value in attrs if name == "id"]
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]

    def handle_endtag(self, tag):
        self._in_style = False
        self._in_script = False

    def handle_data(self, data):
        if self._in_style:
            self.styles.append(data)
        elif self._in_script:
            self.scripts.append(data)
        else:
            self.text += data


def _page(runs: Path, out: Path) -> _Page:
    return _Page(write_report(load_runs([runs]), out).read_text())


def test_the_page_loads_nothing_from_outside(tmp_path):
    for name in ("one", "two $x^2$"):
        write_test(write_run(tmp_path / "runs" / name), "val-1x1-224", right=3)
    path = write_report(load_runs([tmp_path / "runs"]), tmp_path / "out")
    text = path.read_text()
    page = _Page(text)
    assert page.outside == []
    assert "url(http" not in text
    assert "@import" not in text
    assert "\\u003cb>&up" in page.text  # in the data of the script, which sets it as text
    assert "Confused pairs" not in page.text
    assert len(page.ids) == len(set(page.ids))
    for part in ("75.00", "Which is better", "Most confused pairs", "by class", "two $x^2$"):
        assert part in page.text


def test_the_policy_allows_the_scripts_and_styles_of_the_page_alone(tmp_path):
    for name in ("one", "two"):
        write_run(tmp_path / "runs" / name)
    page = _page(tmp_path / "runs", tmp_path / "out")
    directives = dict(part.strip().split(" ", 1) for part in page.policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"

    def digests(texts: list[str]) -> set[str]:
        found = [hashlib.sha256(text.encode()).digest() for text in texts]
        return {f"'sha256-{base64.b64encode(digest).decode()}'" for digest in found}

    # plotly adds a style element without text, and its script is unpacked by the page's own.
    plotly = gzip.decompress(base64.b64decode(_packed(page))).decode()
    assert len(page.styles) == len(page.scripts) == 2
    assert set(directives["style-src-elem"].split()) == digests([*page.styles, ""])
    assert set(directives["script-src"].split()) == digests([*page.scripts, plotly])
    assert "plotly.js v" in plotly[:200]


def _packed(page: _Page) -> str:
    """Return the longest word of the page's text: the packed script of plotly."""
    return max(page.text.split(), key=len)


def test_names_notes_and_tests_are_text(tmp_path):
    attack = "<script>alert(1)<&script>"
    run_dir = write_run(tmp_path / "runs" / attack, f"note={attack}", "published=0.5")
    write_run(tmp_path / "runs" / "two")
    write_test(run_dir, f"{attack}-1x1-224", right=3)
    (write_test(run_dir, "val-1x3-224", right=3) / "scores.npz").write_bytes(b"")
    page = _page(tmp_path / "runs", tmp_path / "out")
    assert page.outside == []
    assert page.tags.count("script") == 4  # data, plotly, DataTables and the page's own
    # The name is in the table, above the details, and in the message about the file without
    # scores; the note is above the table, and the name of the test in its table.
    assert page.text.count(attack) >= 5


def test_a_file_without_scores_is_named_on_the_page(tmp_path):
    run_dir = write_run(tmp_path / "runs" / "a")
    (write_test(run_dir, "val-1x1-224", right=3) / "scores.npz").write_bytes(b"")
    text = _page(tmp_path / "runs", tmp_path / "out").text
    assert re.search(r"val-1x1-224/scores\.npz is not a valid scores file", text)


def test_any_number_of_classes_has_confused_pairs_and_a_heat_map(tmp_path):
    run_dir = write_run(tmp_path / "runs" / "a")
    # 70 classes with 2 videos each: the first 40 are predicted correctly, the others as class 0.
    labels = np.repeat(np.arange(70), 2)
    views = np.full((140, 1, 70), 0.001, np.float32)
    views[np.arange(140), 0, np.where(labels < 40, labels, 0)] = 0.9
    classes = tuple(f"class-{k}." for k in range(70))
    scores = Scores([f"v{k}" for k in range(140)], labels, views, classes)
    save(run_dir / "tests" / "val-1x1-224", scores, {})
    text = _page(tmp_path / "runs", tmp_path / "out").text
    data = json.loads(text[text.index('{"runs"') :].splitlines()[0])
    assert data["runs"][0]["classes"]["values"] == 40 * [1000] + 30 * [0]
    confusion = data["details"]["0"]["confusion"]
    assert confusion["label"] == list(range(70))
    assert confusion["predicted"] == [*range(40), *(30 * [0])]
    assert confusion["videos"] == 70 * [2]
    pairs = text[text.index("Most confused pairs") : text.index("Wrong with the highest")]
    assert pairs.count("100.0") == 20  # each of the listed classes is always taken for class 0


def test_several_labels_show_average_precision_and_no_confusion(tmp_path):
    run_dir = write_run(tmp_path / "a")
    labels = np.array([[1, 0, 1, 0], [0, 1, 0, 0]], np.uint8)
    views = np.float32([[[0.9, 0.2, 0.8, 0.1]], [[0.1, 0.9, 0.2, 0.1]]])
    save(run_dir / "tests" / "val-1x1-224", Scores(["a", "b"], labels, views, CLASSES), {})
    frame = load_runs([run_dir])
    assert (frame["map_class"].item(), frame["map_sample"].item()) == (1.0, 1.0)
    assert math.isnan(frame["top1"].item())
    text = write_report(frame, tmp_path / "out").read_text()
    assert '"values":[1000,1000,1000,null]' in text  # average precision by class
    assert "Most confused pairs" not in text


def test_a_snapshot_of_the_code_renders_the_page(tmp_path):
    write_test(write_run(tmp_path / "runs" / "a"), "val-1x1-224", right=3)
    snapshot(tmp_path / "code")
    code = (
        "import pathlib, sys, tin\n"
        "from tin.reports.results import load_runs, write_report\n"
        "print(tin.__path__[0])\n"
        "write_report(load_runs([sys.argv[1]]), pathlib.Path(sys.argv[2]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "runs", tmp_path / "out"],
        cwd=tmp_path / "code",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "code")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "code" / "tin")
    assert "Most confused pairs" in (tmp_path / "out" / "results.html").read_text()

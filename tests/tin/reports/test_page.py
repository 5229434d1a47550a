"""The page of the report needs no other file, shows any text as text, and is readable."""

import base64
import hashlib
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
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._in_style = tag == "style"
        if tag in ("script", "link", "img", "iframe", "object"):
            self.outside.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "style") and "//" in (value or ""):
                self.outside.append(value)
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]

    def handle_endtag(self, tag):
        self._in_style = False

    def handle_data(self, data):
        if self._in_style:
            self.styles.append(data)
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
    assert "b" not in page.tags  # class names are text, not tags
    assert "<b>&up" in page.text
    assert page.tags.count("svg") == 3  # both runs compared, and each run alone
    for part in ("75.00", "Runs compared", "Confusion", "Accuracy by class", "two $x^2$"):
        assert part in page.text


def test_the_policy_allows_the_styles_of_the_page_and_no_script(tmp_path):
    for name in ("one", "two"):
        write_run(tmp_path / "runs" / name)
    page = _page(tmp_path / "runs", tmp_path / "out")
    directives = dict(part.strip().split(" ", 1) for part in page.policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert "script-src" not in directives  # so that default-src applies
    digests = {
        f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"
        for style in page.styles
    }
    assert page.tags.count("style") == len(page.styles) == 1 + 3  # the page and three pictures
    assert set(directives["style-src-elem"].split()) == digests


def test_names_notes_and_tests_are_text(tmp_path):
    attack = "<script>alert(1)<&script>"
    run_dir = write_run(tmp_path / "runs" / attack, f"note={attack}", "published=0.5")
    write_run(tmp_path / "runs" / "two")
    write_test(run_dir, f"{attack}-1x1-224", right=3)
    (write_test(run_dir, "val-1x3-224", right=3) / "scores.npz").write_bytes(b"")
    page = _page(tmp_path / "runs", tmp_path / "out")
    assert page.outside == []
    # The name is in the table twice, in the picture of both runs, and above its section; the note
    # is above the sections, the name of the test in its table, and the path of the run in the
    # message about the file without scores.
    assert page.text.count(attack) >= 7


def test_a_file_without_scores_is_named_on_the_page(tmp_path):
    run_dir = write_run(tmp_path / "runs" / "a")
    (write_test(run_dir, "val-1x1-224", right=3) / "scores.npz").write_bytes(b"")
    text = _page(tmp_path / "runs", tmp_path / "out").text
    assert re.search(r"val-1x1-224/scores\.npz is not a valid scores file", text)


def test_many_classes_show_the_lowest_and_the_highest_alone(tmp_path):
    run_dir = write_run(tmp_path / "runs" / "a")
    # 70 classes with 1 video each: the first 40 are predicted correctly, the others as class 0.
    views = np.full((70, 1, 70), 0.001, np.float32)
    views[np.arange(70), 0, [k if k < 40 else 0 for k in range(70)]] = 0.9
    classes = tuple(f"class-{k}." for k in range(70))
    scores = Scores([f"v{k}" for k in range(70)], np.arange(70), views, classes)
    save(run_dir / "tests" / "val-1x1-224", scores, {})
    text = _page(tmp_path / "runs", tmp_path / "out").text
    assert "The 30 lowest and the 30 highest of 70." in text
    # The lowest are classes 40 to 69; of the others, which are equal, the last 30 are shown.
    assert [k for k in range(70) if f"class-{k}." not in text] == list(range(10))
    assert "Confusion" not in text


def test_several_labels_show_average_precision_and_no_confusion(tmp_path):
    run_dir = write_run(tmp_path / "a")
    labels = np.array([[1, 0, 1, 0], [0, 1, 0, 0]], np.uint8)
    views = np.float32([[[0.9, 0.2, 0.8, 0.1]], [[0.1, 0.9, 0.2, 0.1]]])
    save(run_dir / "tests" / "val-1x1-224", Scores(["a", "b"], labels, views, CLASSES), {})
    frame = load_runs([run_dir])
    assert (frame["map_class"].item(), frame["map_sample"].item()) == (1.0, 1.0)
    assert math.isnan(frame["top1"].item())
    text = write_report(frame, tmp_path / "out").read_text()
    assert "Average precision by class" in text
    assert "Confusion" not in text


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
    assert "Accuracy by class" in (tmp_path / "out" / "results.html").read_text()

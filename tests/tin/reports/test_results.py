"""Tables of runs, on run folders written by hand."""

import json
import math
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from configs.load import dump, load
from tin.evaluation.scores import Scores, save
from tin.reports.results import COLUMNS, load_runs, write_report
from tin.reports.tables import plain, readable
from tin.runs.folder import Run

METRICS = "epoch,split,step,loss,top1,top5,map_class,map_sample,lr,seconds,clips_per_s,data_wait"
STEPS = "epoch,step,time,loss,lr,clips_per_s,data_wait,memory_gb,gpu_use,gpu_power,skipped"
CLASSES = ("left", "right", "<b>&up", "down")
START = 1_700_000_000


def _run(folder: Path, *settings: str) -> Path:
    """Write a finished run of three epochs, two attempts, no test."""
    (folder / "job").mkdir(parents=True)
    config = load(None, ["recipe=demo", "data.dataset=/data/motions", "model.init=none", *settings])
    (folder / "config.yaml").write_text(dump(config))
    rows = [
        f"{epoch},{split},{10 * (epoch + 1)},{2 - epoch / 2},{top1},{top1},,,0.01,9,{rate},0.02"
        for epoch, top1 in enumerate([0.25, 0.75, 0.5])
        for split, rate in (("train", 100 + 10 * epoch), ("val", 300))
    ]
    (folder / "metrics.csv").write_text("\n".join([METRICS, *rows]) + "\n")
    steps = [f"{n // 10},{n},{START + 10 * n},2.0,0.01,99,0.03,,,,0" for n in range(30)]
    (folder / "steps.csv").write_text("\n".join([STEPS, *steps]) + "\n")
    _attempt(folder, 1, commit="aaa1111", started=START)  # killed after the step of second 290
    _attempt(folder, 2, commit="bbb2222", started=START + 1000, ended=START + 2800)
    (folder / "job" / "DONE").write_text(json.dumps({"train": START + 2800}))
    return folder


def _attempt(folder: Path, number: int, **facts) -> None:
    (folder / "job" / f"attempt-{number:02d}").write_text("{}")
    facts = {"device": "cuda:0", "world_size": 4, **facts}
    (folder / f"environment-{number:02d}.json").write_text(json.dumps(facts))


def _test(run: Path, name: str, right: int) -> Path:
    """Write a test of four videos, one a class, of which `right` are named right."""
    views = np.full((4, 1, 4), 0.1, np.float32)
    views[np.arange(4), 0, [k if k < right else (k + 1) % 4 for k in range(4)]] = 0.7
    result = {"dataset": "motions", "params": 1_000_000, "gflops": 2.5, "missing": ["v9"]}
    keys = [f"v{k}" for k in range(4)]
    save(run / "tests" / name, Scores(keys, np.arange(4), views, CLASSES), result)
    return run / "tests" / name


def _only(path: Path) -> pd.Series:
    frame = load_runs([path])
    assert len(frame) == 1
    return frame.iloc[0]


def test_the_table_has_the_columns_of_the_design(tmp_path):
    wanted = (
        "run recipe dataset temporal arch num_segments views crop pretrained seed epochs"
        " global_batch params gflops top1 top5 mean_class map_class map_sample best_epoch published"
        " delta clips_per_s data_wait gpu_hours restarts state commit"
    ).split()
    assert wanted == COLUMNS
    assert list(load_runs([_run(tmp_path / "a")]).columns) == wanted
    assert list(load_runs([]).columns) == wanted


def test_a_run_without_a_test_shows_its_best_epoch(tmp_path):
    row = _only(_run(tmp_path / "a", "published=0.70", "train.seed=3", "test.crops=3"))
    assert (row["top1"], row["best_epoch"], row["state"]) == (0.75, 2, "done")
    assert row["delta"] == pytest.approx(0.05)
    assert row["clips_per_s"] == 110  # the median of training's epochs
    assert row["data_wait"] == pytest.approx(0.02)
    wanted = ("demo", "motions", "interlace", "resnet50", 8, "1x3", 224, "none", 3, 40, 48)
    assert tuple(row[list(COLUMNS[1:12])]) == wanted


def test_the_speed_is_that_of_the_steps_where_no_epoch_knows_it(tmp_path):
    run = _run(tmp_path / "a")
    rows = (run / "metrics.csv").read_text().splitlines()
    lost = [re.sub("9,1[0-2]0,0.02$", "0,nan,nan", row) for row in rows]
    assert sum(one != two for one, two in zip(rows, lost, strict=True)) == 3
    (run / "metrics.csv").write_text("\n".join(lost) + "\n")
    row = _only(run)
    assert (row["clips_per_s"], row["data_wait"]) == (99, pytest.approx(0.03))


def test_gpu_hours_sum_all_attempts(tmp_path):
    row = _only(_run(tmp_path / "a"))
    # 4 GPUs: 290 s until the last step that attempt 1 left, 1800 s of attempt 2
    assert row["gpu_hours"] == pytest.approx(4 * (290 + 1800) / 3600)
    assert (row["restarts"], row["commit"]) == (1, "bbb2222")


def test_gpu_hours_that_slurm_counted_come_first(tmp_path):
    run = _run(tmp_path / "a")
    executions = [{"elapsed_s": 1800, "gpus": 4}, {"elapsed_s": 600, "gpus": 8}]
    (run / "job" / "executions.json").write_text(json.dumps({"executions": executions}))
    assert _only(run)["gpu_hours"] == pytest.approx(0.5 * 4 + 8 / 6)


def test_a_cpu_takes_no_gpu_hours(tmp_path):
    run = _run(tmp_path / "a")
    for number in (1, 2):
        _attempt(run, number, device="cpu", started=START, ended=START + 3600)
    assert _only(run)["gpu_hours"] == 0


def test_each_test_is_a_row_with_its_own_metrics(tmp_path):
    run = _run(tmp_path / "a", "published=0.5")
    _test(run, "val-1x1-224", right=2)
    _test(run, "val-2x3-256", right=3)
    frame = load_runs([run])
    assert frame["views"].tolist() == ["1x1", "2x3"]
    assert frame["crop"].tolist() == [224, 256]
    assert frame["top1"].tolist() == [0.5, 0.75]
    assert frame["mean_class"].tolist() == [0.5, 0.75]
    assert frame["delta"].tolist() == [0.0, 0.25]
    assert frame["params"].tolist() == [1_000_000] * 2
    assert frame["map_class"].isna().all()


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    for name in ("one", "sweep/two", "sweep/deep/er/three"):
        _run(tmp_path / name)
    frame = load_runs([tmp_path, tmp_path / "sweep" / "two"])
    names = [str(Path(run).relative_to(tmp_path)) for run in frame["run"]]
    assert sorted(names) == ["one", "sweep/deep/er/three", "sweep/two"]
    assert readable(frame)[0]["run"].tolist() == names


def test_the_folder_of_a_sweep_is_no_run(tmp_path):
    (tmp_path / "sweep" / "job" / "logs").mkdir(parents=True)
    _run(tmp_path / "sweep" / "lr-0.01")
    waiting = tmp_path / "sweep" / "lr-0.02"
    (waiting / "job").mkdir(parents=True)
    Run(waiting).recipe.write_text(dump(load(None, ["optim.lr=0.02", "recipe=r"])))
    frame = load_runs([tmp_path])
    assert [Path(run).name for run in frame["run"]] == ["lr-0.01", "lr-0.02"]
    assert frame["state"].tolist() == ["done", "waiting"]
    assert frame["recipe"].tolist() == ["demo", "r"]


def test_a_run_of_imported_weights_says_so(tmp_path):
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    (tmp_path / "a" / "checkpoints" / "best.pt").write_bytes(b"")
    (tmp_path / "a" / "config.yaml").write_text(dump(load(None, [])))
    assert _only(tmp_path / "a")["state"] == "imported"


def test_missing_waiting_running_lost_and_stopped_runs_are_listed(tmp_path):
    (tmp_path / "waiting" / "job").mkdir(parents=True)
    for name in ("running", "lost", "stopped", "queued"):
        (_run(tmp_path / name) / "job" / "DONE").unlink()
    _attempt(tmp_path / "running", 2, started=time.time() - 60)
    _attempt(tmp_path / "lost", 2, started=START + 1000)
    for file in (tmp_path / "queued" / "job").iterdir():
        file.unlink()
    frame = load_runs([tmp_path, tmp_path / "nowhere"])
    states = dict(zip([Path(run).name for run in frame["run"]], frame["state"], strict=True))
    assert states == {
        "waiting": "waiting",
        "running": "running",
        "lost": "lost",
        "stopped": "stopped",
        "queued": "waiting",
        "nowhere": "missing: no run here",
    }


@pytest.mark.parametrize(
    ("name", "content", "state"),
    [
        ("config.yaml", b"train: [", "broken: config.yaml"),
        ("config.yaml", b"train: {epoch: 3}", "broken:.*unknown setting train.epoch"),
        ("config.yaml", b"\xff\xfe\x00", "broken:"),
        ("metrics.csv", b"", "done"),
        ("metrics.csv", b"epoch,split\n\x00\xff", "done"),
        ("metrics.csv", METRICS.encode() + b"\n0,val,10,2.0,0.5,0.9,,,0.01,9,3,0\n1,va", "done"),
        ("steps.csv", b"time\nnever\n", "done"),
        ("environment-02.json", b"[]", "done"),
        ("environment-02.json", b'{"started": "x", "world_size": null}', "done"),
        ("job/DONE", b"5", "broken"),
        ("job/attempt-xx", b"", "broken"),
    ],
)
def test_damaged_files_of_a_run_do_not_stop_the_report(tmp_path, name, content, state):
    run = _run(tmp_path / "runs" / "a")
    (run / name).write_bytes(content)
    frame = load_runs([tmp_path / "runs"])
    assert len(frame) == 1
    assert pd.Series(frame["state"]).str.match(state).all()
    write_report(frame, tmp_path / "out")


def test_tests_that_are_half_written_say_so(tmp_path):
    run = _run(tmp_path / "a")
    (_test(run, "val-1x1-224", right=4) / "result.json").unlink()
    (_test(run, "val-1x3-224", right=4) / "result.json").write_text("{")
    (run / "tests" / "odd").mkdir()
    frame = load_runs([run]).set_index("views")
    assert frame.loc["1x1", "state"] == "test did not end"
    assert frame.loc["1x3", "state"].startswith("broken: ")
    assert frame["top1"].isna().all()  # not those of the training
    write_report(load_runs([run]), tmp_path / "out")


def test_the_size_of_an_untested_model_is_counted(tmp_path, monkeypatch):
    info = type("Info", (), {"classes": tuple(map(str, range(174)))})
    monkeypatch.setattr("tin.reports.results.dataset_path", lambda name: Path(name))
    monkeypatch.setattr("tin.reports.results.read_info", lambda folder: info)
    row = _only(_run(tmp_path / "a"))
    assert row["params"] == 23_895_566  # MMAction2 and the original, ResNet-50 of 8 frames
    # its 32.96 count BatchNorm and pooling too; convolutions alone are 8 x 4.09
    assert row["gflops"] == pytest.approx(32.7, abs=0.05)


class _Page(HTMLParser):
    """What a browser would fetch or run, and the visible text."""

    def __init__(self, text: str):
        super().__init__()
        self.outside, self.tags, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag in ("script", "link", "img", "iframe", "object"):
            self.outside.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "style") and "//" in (value or ""):
                self.outside.append(value)

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_from_outside(tmp_path):
    for name in ("one", "two $x^2$"):
        _test(_run(tmp_path / "runs" / name), "val-1x1-224", right=3)
    path = write_report(load_runs([tmp_path / "runs"]), tmp_path / "out")
    text = path.read_text()
    page = _Page(text)
    assert page.outside == []
    assert "url(http" not in text
    assert "@import" not in text
    assert "b" not in page.tags  # class names are text, not tags
    assert "<b>&up" in page.text
    assert page.tags.count("svg") == 3  # both runs compared, and each by itself
    for part in ("75.00", "Runs compared", "Confusion", "Accuracy by class", "two $x^2$"):
        assert part in page.text


def test_csv_holds_fractions_and_markdown_percent(tmp_path):
    _test(_run(tmp_path / "runs" / "a|b", "published=0.5"), "val-1x1-224", right=3)
    write_report(load_runs([tmp_path / "runs"]), tmp_path / "out")
    row = pd.read_csv(tmp_path / "out" / "results.csv").iloc[0]
    assert (row["top1"], row["delta"]) == (0.75, 0.25)
    lines = (tmp_path / "out" / "results.md").read_text().splitlines()
    head, rule, cells = lines[-3:]
    assert len(head.split(" | ")) == len(cells.split(" | ")) == rule.count("---")
    assert "a\\|b" in cells
    assert "| 75.00 |" in cells
    assert "| +25.00 |" in cells
    assert "map_class" not in head  # a column without content is left out


def test_what_all_runs_share_is_said_once(tmp_path):
    _run(tmp_path / "runs" / "a", "train.seed=1")
    _run(tmp_path / "runs" / "b", "train.seed=2")
    (tmp_path / "runs" / "waiting" / "job").mkdir(parents=True)
    table, shared = readable(load_runs([tmp_path / "runs"]))
    assert table["seed"].tolist() == ["1", "2", ""]
    assert "arch resnet50" in shared
    assert "arch" not in table
    assert table["top1 %"].tolist() == ["75.00", "75.00", ""]  # a result, whoever shares it


def test_the_plain_table_fits_a_terminal_and_says_why_a_run_is_broken(tmp_path):
    for seed in (1, 2):
        _run(tmp_path / "runs" / f"seed-{seed}", f"train.seed={seed}")
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "config.yaml").write_text("train: {epoch: 3}")
    table, _ = readable(load_runs([tmp_path / "runs"]))
    wide, narrow = plain(table).splitlines(), plain(table, 48).splitlines()
    assert wide[0].split("  ")[0] == "run"
    assert len(wide) == len(narrow) == 5  # title, three runs, one reason
    assert wide[-1].startswith("bad: broken: ")
    assert max(map(len, narrow[:4])) <= 48
    assert "top1 %" in narrow[0]
    assert "gpu_hours" not in narrow[0]
    assert wide[2].index("75.00") + 5 == wide[0].index("top1 %") + 6  # numbers end together


def test_a_report_of_nothing_is_a_page(tmp_path):
    assert plain(readable(load_runs([]))[0]) == "run  state"
    assert "Runs: 0" in write_report(load_runs([]), tmp_path).read_text()


def test_several_labels_show_precision_and_no_confusion(tmp_path):
    run = _run(tmp_path / "a")
    labels = np.array([[1, 0, 1, 0], [0, 1, 0, 0]], np.uint8)
    views = np.float32([[[0.9, 0.2, 0.8, 0.1]], [[0.1, 0.9, 0.2, 0.1]]])
    save(run / "tests" / "val-1x1-224", Scores(["a", "b"], labels, views, CLASSES), {})
    frame = load_runs([run])
    assert (frame["map_class"].item(), frame["map_sample"].item()) == (1.0, 1.0)
    assert math.isnan(frame["top1"].item())
    text = write_report(frame, tmp_path / "out").read_text()
    assert "Average precision by class" in text
    assert "Confusion" not in text

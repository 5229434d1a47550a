"""Tables of runs, from run folders that the tests write by hand."""

import json
import re
import time
from pathlib import Path

import pandas as pd
import pytest
from written_runs import METRICS, START, write_attempt, write_run, write_test

from configs.load import dump, load
from tin.reports.results import COLUMNS, load_runs, write_report
from tin.reports.tables import plain, readable
from tin.runs.folder import Run


def _only_row(path: Path) -> pd.Series:
    frame = load_runs([path])
    assert len(frame) == 1
    return frame.iloc[0]


def test_the_table_has_the_documented_columns(tmp_path):
    wanted = (
        "run recipe dataset temporal arch num_segments views crop average pretrained seed epochs"
        " global_batch params gflops top1 top1_low top1_high top5 top5_low top5_high mean_class"
        " mean_class_low mean_class_high map_class map_class_low map_class_high map_sample"
        " map_sample_low map_sample_high best_epoch published delta clips_per_s data_wait gpu_hours"
        " goodput"
        " restarts state commit test"
    ).split()
    assert wanted == COLUMNS
    assert list(load_runs([write_run(tmp_path / "a")]).columns) == wanted
    assert list(load_runs([]).columns) == wanted


def test_a_run_without_a_test_shows_its_best_epoch(tmp_path):
    row = _only_row(write_run(tmp_path / "a", "published=0.70", "train.seed=3", "test.crops=3"))
    assert (row["top1"], row["best_epoch"], row["state"]) == (0.75, 2, "done")
    assert row["delta"] == pytest.approx(0.05)
    assert row["clips_per_s"] == 110  # the median over the epochs of training
    assert row["data_wait"] == pytest.approx(0.02)
    wanted = (
        "demo",
        "motions",
        "interlace",
        "resnet50",
        8,
        "1x3",
        224,
        "scores",
        "none",
        3,
        40,
        48,
    )
    assert tuple(row[list(COLUMNS[1:13])]) == wanted


def test_the_speed_comes_from_the_steps_if_no_epoch_recorded_it(tmp_path):
    run_dir = write_run(tmp_path / "a")
    rows = (run_dir / "metrics.csv").read_text().splitlines()
    without_speed = [re.sub("9,1[0-2]0,0.02$", "0,nan,nan", row) for row in rows]
    assert sum(one != two for one, two in zip(rows, without_speed, strict=True)) == 3
    (run_dir / "metrics.csv").write_text("\n".join(without_speed) + "\n")
    row = _only_row(run_dir)
    assert (row["clips_per_s"], row["data_wait"]) == (99, pytest.approx(0.03))


def test_gpu_hours_sum_all_attempts(tmp_path):
    row = _only_row(write_run(tmp_path / "a"))
    # 4 GPUs: 290 s until the last step that attempt 1 recorded, then 1800 s of attempt 2.
    assert row["gpu_hours"] == pytest.approx(4 * (290 + 1800) / 3600)
    assert (row["restarts"], row["commit"]) == (1, "bbb2222")


def test_gpu_hours_of_slurm_are_preferred(tmp_path):
    run_dir = write_run(tmp_path / "a")
    executions = [{"elapsed_s": 1800, "gpus": 4}, {"elapsed_s": 600, "gpus": 8}]
    (run_dir / "job" / "executions.json").write_text(json.dumps({"executions": executions}))
    assert _only_row(run_dir)["gpu_hours"] == pytest.approx(0.5 * 4 + 8 / 6)


def test_a_run_on_a_cpu_has_no_gpu_hours(tmp_path):
    run_dir = write_run(tmp_path / "a")
    for number in (1, 2):
        write_attempt(run_dir, number, device="cpu", started=START, ended=START + 3600)
    assert _only_row(run_dir)["gpu_hours"] == 0


def test_each_test_is_a_row_with_its_own_metrics(tmp_path):
    run_dir = write_run(tmp_path / "a", "published=0.5")
    write_test(run_dir, "val-1x1-224", right=2)
    write_test(run_dir, "val-2x3-256", right=3)
    frame = load_runs([run_dir])
    assert frame["views"].tolist() == ["1x1", "2x3"]
    assert frame["crop"].tolist() == [224, 256]
    assert frame["top1"].tolist() == [0.5, 0.75]
    assert frame["mean_class"].tolist() == [0.5, 0.75]
    assert frame["delta"].tolist() == [0.0, 0.25]
    assert frame["params"].tolist() == [1_000_000] * 2
    assert frame["map_class"].isna().all()


def test_runs_are_found_once_at_any_depth(tmp_path):
    for name in ("one", "sweep/two", "sweep/deep/er/three"):
        write_run(tmp_path / name)
    frame = load_runs([tmp_path, tmp_path / "sweep" / "two"])
    names = [str(Path(run_dir).relative_to(tmp_path)) for run_dir in frame["run"]]
    assert sorted(names) == ["one", "sweep/deep/er/three", "sweep/two"]
    assert readable(frame)[0]["run"].tolist() == names


def test_the_folder_of_a_sweep_is_not_a_run(tmp_path):
    (tmp_path / "sweep" / "job" / "logs").mkdir(parents=True)
    write_run(tmp_path / "sweep" / "lr-0.01")
    queued = tmp_path / "sweep" / "lr-0.02"
    (queued / "job").mkdir(parents=True)
    Run(queued).recipe.write_text(dump(load(None, ["optim.lr=0.02", "recipe=r"])))
    frame = load_runs([tmp_path])
    assert [Path(run_dir).name for run_dir in frame["run"]] == ["lr-0.01", "lr-0.02"]
    assert frame["state"].tolist() == ["done", "waiting"]
    assert frame["recipe"].tolist() == ["demo", "r"]


def test_a_run_of_imported_weights_has_the_state_imported(tmp_path):
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    (tmp_path / "a" / "checkpoints" / "best.pt").write_bytes(b"")
    (tmp_path / "a" / "config.yaml").write_text(dump(load(None, [])))
    assert _only_row(tmp_path / "a")["state"] == "imported"


def test_missing_queued_running_lost_and_stopped_runs_are_listed(tmp_path):
    (tmp_path / "submitted" / "job").mkdir(parents=True)
    for name in ("running", "lost", "stopped", "requeued"):
        (write_run(tmp_path / name) / "job" / "DONE").unlink()
    write_attempt(tmp_path / "running", 2, started=time.time() - 60)
    write_attempt(tmp_path / "lost", 2, started=START + 1000)
    for file in (tmp_path / "requeued" / "job").iterdir():
        file.unlink()
    frame = load_runs([tmp_path, tmp_path / "nowhere"])
    names = [Path(run_dir).name for run_dir in frame["run"]]
    states = dict(zip(names, frame["state"], strict=True))
    assert states == {
        "submitted": "waiting",
        "running": "running",
        "lost": "lost",
        "stopped": "stopped",
        "requeued": "waiting",
        "nowhere": "missing: no run here",
    }


@pytest.mark.parametrize(
    ("name", "content", "state"),
    [
        ("config.yaml", b"train: [", "broken: config.yaml"),
        ("config.yaml", b"train: {epoch: 3}", "broken:.*unknown setting train.epoch"),
        ("config.yaml", b"\xff\xfe\x00", "broken:"),
        ("metrics.csv", b"", "done"),
        ("metrics.csv", b"epoch,step\n1,2\n", "done"),
        ("metrics.csv", b"epoch,split\n\x00\xff", "done"),
        ("metrics.csv", METRICS.encode() + b"\n0,val,10,2.0,0.5,0.9,,,0.01,9,3,0\n1,va", "done"),
        ("steps.csv", b"time\nnever\n", "done"),
        ("environment-02.json", b"[]", "done"),
        ("environment-02.json", b'{"started": "x", "world_size": null}', "done"),
        ("job/DONE", b"5", "broken"),
        ("job/attempt-xx", b"", "broken"),
        ("job/executions.json", b'{"executions": [5]}', "broken"),
    ],
)
def test_damaged_files_of_a_run_do_not_stop_the_report(tmp_path, name, content, state):
    run_dir = write_run(tmp_path / "runs" / "a")
    (run_dir / name).write_bytes(content)
    frame = load_runs([tmp_path / "runs"])
    assert len(frame) == 1
    assert pd.Series(frame["state"]).str.match(state).all()
    write_report(frame, tmp_path / "out")


def test_a_test_that_did_not_end_is_reported_as_such(tmp_path):
    run_dir = write_run(tmp_path / "a")
    (write_test(run_dir, "val-1x1-224", right=4) / "result.json").unlink()
    (write_test(run_dir, "val-1x3-224", right=4) / "result.json").write_text("{")
    (run_dir / "tests" / "odd").mkdir()
    (run_dir / "tests" / "val-5x1-224+average=logits").mkdir()
    frame = load_runs([run_dir]).set_index("views")
    assert frame.loc["5x1", "crop"] == 224
    assert frame.loc["1x1", "state"] == "test did not end"
    assert frame.loc["1x3", "state"].startswith("broken: ")
    assert frame["top1"].isna().all()  # the metrics of training are not shown in their place
    write_report(load_runs([run_dir]), tmp_path / "out")


def test_the_size_of_an_untested_model_is_counted(tmp_path, monkeypatch):
    info = type("Info", (), {"classes": tuple(map(str, range(174)))})
    monkeypatch.setattr("tin.reports.results.dataset_path", lambda name: Path(name))
    monkeypatch.setattr("tin.reports.results.read_info", lambda folder: info)
    row = _only_row(write_run(tmp_path / "a"))
    # MMAction2 and the original code count the same parameters of a ResNet-50 with 8 frames.
    assert row["params"] == 23_895_566
    # MMAction2's 32.96 include BatchNorm and pooling; convolutions alone take 8 x 4.09.
    assert row["gflops"] == pytest.approx(32.7, abs=0.05)


def test_the_csv_file_holds_fractions_and_markdown_holds_percent(tmp_path):
    write_test(write_run(tmp_path / "runs" / "a|b", "published=0.5"), "val-1x1-224", right=3)
    write_report(load_runs([tmp_path / "runs"]), tmp_path / "out")
    row = pd.read_csv(tmp_path / "out" / "results.csv").iloc[0]
    assert (row["top1"], row["delta"]) == (0.75, 0.25)
    lines = (tmp_path / "out" / "results.md").read_text().splitlines()
    head, rule, cells = lines[-3:]
    assert len(head.split(" | ")) == len(cells.split(" | ")) == rule.count("---")
    assert "a\\|b" in cells
    assert "| 75.00 |" in cells
    assert "| +25.00 |" in cells
    assert "map_class" not in head  # an empty column is left out


def test_names_of_runs_are_neither_html_nor_markdown_nor_formulas(tmp_path):
    for name in ("=1+1", "<img src=x>", "[a](b)", "c`d"):
        write_run(tmp_path / "runs" / name)
    frame = load_runs([tmp_path / "runs"]).assign(recipe="=cmd()")
    write_report(frame, tmp_path / "out")
    text = (tmp_path / "out" / "results.md").read_text()
    assert "<img" not in text
    assert "[a](b)" not in text
    assert "\\[a\\](b)" in text
    assert "<img src=x>" not in (tmp_path / "out" / "results.html").read_text()
    assert "'=cmd()" in (tmp_path / "out" / "results.csv").read_text()


def test_settings_that_all_runs_share_are_stated_once(tmp_path):
    write_run(tmp_path / "runs" / "a", "train.seed=1")
    write_run(tmp_path / "runs" / "b", "train.seed=2")
    (tmp_path / "runs" / "queued" / "job").mkdir(parents=True)
    table, shared = readable(load_runs([tmp_path / "runs"]))
    assert table["seed"].tolist() == ["1", "2", ""]
    assert "arch resnet50" in shared
    assert "arch" not in table
    assert table["top1 %"].tolist() == ["75.00", "75.00", ""]  # results are always shown


def test_the_plain_table_fits_a_terminal_and_explains_broken_runs(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / "runs" / f"seed-{seed}", f"train.seed={seed}")
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "config.yaml").write_text("train: {epoch: 3}")
    table, _ = readable(load_runs([tmp_path / "runs"]))
    wide = plain(table).splitlines()
    narrow = plain(table, 48).splitlines()
    assert wide[0].split("  ")[0] == "run"
    assert len(wide) == len(narrow) == 5  # titles, three runs, one reason
    assert wide[-1].startswith("bad: broken: ")
    assert max(map(len, narrow[:4])) <= 48
    assert "top1 %" in narrow[0]
    assert "gpu_hours" not in narrow[0]
    assert wide[2].index("75.00") + 5 == wide[0].index("top1 %") + 6  # right-aligned


def test_a_report_without_runs_is_a_page(tmp_path):
    assert plain(readable(load_runs([]))[0]) == "run  state"
    assert "Runs: 0" in write_report(load_runs([]), tmp_path).read_text()


def test_the_commands_of_a_page_repeat_a_test_with_its_options(tmp_path):
    run_dir = write_run(tmp_path / "a")
    write_test(run_dir, "val-2x1-256+average=logits", right=3)
    page = write_report(load_runs([run_dir]), tmp_path / "out").read_text()
    assert "--views 2x1 --crop 256 data.test_split=val test.average=logits" in page

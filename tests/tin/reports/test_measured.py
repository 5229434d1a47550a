"""What a report takes from scores: intervals of every metric, and where they are kept."""

import json

import numpy as np
import pytest
from report_runs import write_sweep
from written_runs import write_run, write_test

from tin.evaluation.scores import Scores, load_result, save, summarize
from tin.reports.comparisons import compare_paths
from tin.reports.intervals import INTERVALS, intervals, intervals_of, store_intervals
from tin.reports.measured import measure
from tin.reports.recorded import natural
from tin.reports.results import load_runs, write_report
from tin.reports.statistics import resample_counts


def _scores(multi_label: bool) -> Scores:
    rng = np.random.default_rng(0)
    views = rng.random((80, 2, 6)).astype(np.float32)
    labels = rng.integers(0, 6, 80)
    if multi_label:
        labels = np.eye(6, dtype=np.uint8)[labels] | (rng.random((80, 6)) < 0.2)
    else:
        views[np.arange(80), :, labels] += 0.3
        views /= views.sum(axis=2, keepdims=True)
    names = ("up", "down", "left", "right", "in", "out")
    return Scores([f"v{n}" for n in range(80)], labels, views, names)


@pytest.mark.parametrize("multi_label", [False, True])
def test_each_interval_is_that_of_the_metric_of_resampled_videos(multi_label):
    scores = _scores(multi_label)
    found = intervals(scores)
    assert set(found) == set(summarize(scores))
    replicates = []
    for row in resample_counts(80):
        drawn = np.repeat(np.arange(80), row)
        keys = [f"v{n}" for n in range(80)]
        replicates.append(
            summarize(Scores(keys, scores.labels[drawn], scores.scores[drawn], scores.classes))
        )
    for name, ends in found.items():
        values = [one[name] for one in replicates]
        assert ends == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-5), name


def test_a_test_stores_its_intervals_and_a_report_computes_missing_ones_once(tmp_path):
    folder = write_test(write_run(tmp_path / "a"), "val-1x1-224", right=3)
    wanted = intervals_of(folder, load_result(folder))
    kept = (folder / INTERVALS).read_text()
    # A second report reads what the first one kept; a new test makes it worthless.
    changed = kept.replace(str(wanted["top1"][0]), "0.125")
    (folder / INTERVALS).write_text(changed)
    assert intervals_of(folder, load_result(folder))["top1"][0] == 0.125
    save(folder, _scores(False), {})
    assert intervals_of(folder, load_result(folder))["top1"][0] not in (0.125, wanted["top1"][0])
    store_intervals(folder)
    assert load_result(folder)["intervals"]["top1"] == list(intervals(_scores(False))["top1"])


def test_intervals_are_computed_where_nothing_can_be_kept(tmp_path, monkeypatch):
    folder = write_test(write_run(tmp_path / "a"), "val-1x1-224", right=3)

    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr("tin.reports.intervals.write_text", refuse)
    assert intervals_of(folder, load_result(folder))["top1"][1] == 1.0


def test_the_most_confident_mistakes_come_first():
    views = np.full((3, 1, 3), 0.1, np.float32)
    views[0, 0, 1] = 0.8  # label 0: wrong
    views[1, 0, 1] = 0.9  # label 1: right
    views[2, 0, 0] = 0.85  # label 2: wrong
    scores = Scores(["a", "b", "c"], np.arange(3), views, ("x", "y", "z"))
    found = _measured(scores)
    assert [(one.key, one.labels, one.predicted) for one in found.wrong] == [
        ("c", "z", "x"),
        ("a", "x", "y"),
    ]


def _measured(scores: Scores):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), scores, {})
        return measure(Path(folder))


def test_runs_that_differ_in_the_seed_are_one_row(tmp_path):
    write_sweep(tmp_path / "runs", 6, num_classes=5, num_videos=100)
    frame = load_runs([tmp_path / "runs"])
    write_report(frame, tmp_path / "out")
    text = (tmp_path / "out" / "results_seeds.csv").read_text().splitlines()
    assert len(text) == 3  # titles and two networks
    row = dict(zip(text[0].split(","), text[1].split(","), strict=True))
    values = frame["top1"].iloc[:3]
    assert (row["name"], row["seeds"]) == ("temporal none", "3")
    assert float(row["top1"]) == pytest.approx(values.mean())
    assert float(row["top1_std"]) == pytest.approx(values.std())  # pandas divides by n - 1
    assert float(row["top1_low"]) < values.mean() < float(row["top1_high"])
    for name in ("results.md", "results.tex"):
        assert "temporal none" in (tmp_path / "out" / name).read_text()


def test_two_models_are_compared_by_their_folders(tmp_path):
    write_sweep(tmp_path / "runs", 6, num_classes=5, num_videos=100)
    none, shift = (tmp_path / "runs" / f"{name}_lr-0.01_seed-0" for name in ("none", "shift"))
    name, found = compare_paths(shift, none)
    frame = load_runs([shift, none])
    assert name == "top1, test val-1x1-224"
    assert found.difference == pytest.approx(frame["top1"][0] - frame["top1"][1])
    assert found.num_seeds == (1, 1)


def test_tests_of_other_videos_are_not_compared(tmp_path):
    write_sweep(tmp_path / "a", 1, num_classes=5, num_videos=100)
    write_sweep(tmp_path / "b", 1, num_classes=5, num_videos=90)
    with pytest.raises(ValueError, match="they have other videos"):
        compare_paths(tmp_path / "a", tmp_path / "b")
    run_dir = write_run(tmp_path / "c")
    with pytest.raises(ValueError, match="no test in common"):
        compare_paths(tmp_path / "a", run_dir)


def test_numbers_in_names_sort_by_their_value():
    names = ["lr-0.1_seed-10", "lr-0.1_seed-2", "lr-0.02_seed-1", "a", "10", "9"]
    wanted = ["9", "10", "a", "lr-0.02_seed-1", "lr-0.1_seed-2", "lr-0.1_seed-10"]
    assert sorted(names, key=natural) == wanted


def test_latex_and_names_in_natural_order(tmp_path):
    for number in (10, 2, 1):
        write_test(write_run(tmp_path / "runs" / f"run_{number}"), "val-1x1-224", right=3)
    frame = load_runs([tmp_path / "runs"])
    assert [name.rpartition("_")[2] for name in frame["run"]] == ["1", "2", "10"]
    write_report(frame, tmp_path / "out")
    text = (tmp_path / "out" / "results.tex").read_text()
    assert text.index("run\\_2") < text.index("run\\_10")
    assert "\\toprule" in text
    data = json.loads((tmp_path / "runs/run_1/tests/val-1x1-224" / INTERVALS).read_text())
    assert set(data["intervals"]) == {"top1", "top5", "mean_class", "loss", "pair"}

"""Cross-validation in a report: one sentence and one row for all folds, values by hand."""

import json

import pytest
from written_runs import write_run, write_test

from tin.reports.contents import read_tests
from tin.reports.folds import fold_sentences, fold_table
from tin.reports.results import load_runs, write_report

RIGHT = {0: 4, 1: 2}
"""Of the four videos of each fold, how many a run gets right."""


def write_folds(folder, seeds, folds=(0, 1)) -> None:
    for seed in seeds:
        for fold in folds:
            settings = ["data.folds=2", f"data.fold={fold}", "data.test_split=fold"]
            run_dir = write_run(folder / f"{fold}-{seed}", *settings, f"train.seed={seed}")
            write_test(run_dir, "fold-1x1-224", RIGHT[fold])


def test_the_folds_of_each_seed_count_each_video_once(tmp_path):
    write_folds(tmp_path / "runs", seeds=(0, 1))
    frame = load_runs([tmp_path / "runs"])
    table = fold_table(frame, read_tests(frame)[0])
    (row,) = table.to_dict("records")
    assert (row["folds"], row["complete"], row["runs"], row["videos"]) == (2, 2, 4, 8)
    assert row["top1"] == pytest.approx(6 / 8)
    assert row["top1_std"] == pytest.approx(((4 * 0.25**2) / 3) ** 0.5)
    assert row["top1_low"] < 0.75 < row["top1_high"]
    (sentence,) = fold_sentences(table)
    assert "2 folds, 2 seeds, 8 videos" in sentence and "top1 75.00 % ± 28.87" in sentence


def test_a_report_has_the_cross_validation_in_all_its_files(tmp_path):
    write_folds(tmp_path / "runs", seeds=(0,))
    page = write_report(load_runs([tmp_path / "runs"]), tmp_path / "out")
    for path in (page, tmp_path / "out" / "results.md"):
        assert "cross-validation demo (fold-1x1-224): 2 folds, 1 seed, 8 videos" in path.read_text()
    assert (tmp_path / "out" / "results_folds.csv").read_text().startswith("name,test,folds")


def test_without_all_folds_of_a_seed_there_is_no_mean(tmp_path):
    write_folds(tmp_path / "runs", seeds=(0,), folds=(1,))
    write_folds(tmp_path / "runs", seeds=(1,), folds=(0,))
    frame = load_runs([tmp_path / "runs"])
    (sentence,) = fold_sentences(fold_table(frame, read_tests(frame)[0]))
    assert "2 runs of 2 folds are tested; the mean needs all folds of a seed" in sentence


def test_two_runs_of_the_same_fold_and_seed_are_named_and_do_not_count(tmp_path):
    write_folds(tmp_path / "runs", seeds=(0, 1))
    settings = ["data.folds=2", "data.fold=1", "data.test_split=fold", "train.seed=0"]
    again = write_run(tmp_path / "runs" / "again", *settings)
    write_test(again, "fold-1x1-224", 0)
    frame = load_runs([tmp_path / "runs"])
    table = fold_table(frame, read_tests(frame)[0])
    (row,) = table.to_dict("records")
    # The mean is that of seed 1 alone: 4 and 2 of 4 videos.
    assert (row["runs"], row["complete"], row["top1"]) == (5, 1, pytest.approx(6 / 8))
    warning, mean = fold_sentences(table)
    assert "several runs have the same fold and seed" in warning
    first = tmp_path / "runs" / "1-0"
    assert f"(fold 1 of seed 0: {first} and {again})" in warning
    assert "2 folds, 1 seed, 8 videos" in mean


def test_without_a_seed_whose_folds_are_clear_there_is_no_mean(tmp_path):
    write_folds(tmp_path / "runs", seeds=(0,))
    write_folds(tmp_path / "copy", seeds=(0,))
    frame = load_runs([tmp_path / "runs", tmp_path / "copy"])
    warning, rest = fold_sentences(fold_table(frame, read_tests(frame)[0]))
    assert "fold 0 of seed 0" in warning and "fold 1 of seed 0" in warning
    assert "4 runs of 2 folds are tested; the mean needs all folds of a seed" in rest


def test_runs_without_folds_have_no_cross_validation(tmp_path):
    write_test(write_run(tmp_path / "runs" / "a"), "val-1x1-224", 3)
    frame = load_runs([tmp_path / "runs"])
    assert fold_sentences(fold_table(frame, read_tests(frame)[0])) == []


def test_the_report_says_that_a_run_stopped_early(tmp_path):
    run_dir = write_run(tmp_path / "a", "train.patience=2")
    facts = {"epoch": 4, "best_epoch": 2, "watched": "metric", "patience": 2}
    (run_dir / "early_stop.json").write_text(json.dumps(facts))
    state = load_runs([run_dir])["state"].iloc[0]
    assert state == (
        "done: early stop after epoch 4, because the metric was best after epoch 2"
        " (train.patience=2)"
    )

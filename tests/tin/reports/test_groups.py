"""Intervals and paired tests resample whole groups of videos where scores.npz has their groups."""

import json
import math

import numpy as np
import pytest
from written_runs import write_run

from launch.commands.results import _print_comparison
from tin.evaluation.fuse import fuse
from tin.evaluation.scores import SCORES, Scores, ScoresError, load, load_result, save
from tin.reports.comparisons import compare_paths
from tin.reports.contents import read_tests
from tin.reports.folds import fold_table
from tin.reports.intervals import intervals, store_intervals
from tin.reports.measured import labeled_groups, measure
from tin.reports.results import load_runs, write_report
from tin.reports.statistics import compare, estimate, permutation_p

SIZES = (1, 2, 3, 4, 5) * 8
GROUPS = np.repeat(np.arange(len(SIZES), dtype=np.uint64) + np.uint64(2**63), SIZES)
N = len(GROUPS)


def scores_of(seed: int, groups: np.ndarray | None = GROUPS) -> Scores:
    """Return scores of two classes; the videos of a group are right or wrong mostly together."""
    rng = np.random.default_rng(seed)
    share = rng.random(len(SIZES)).repeat(SIZES)
    right = rng.random(N) < np.where(share > 0.4, 0.95, 0.05)
    labels = np.arange(N) % 2
    views = np.full((N, 1, 2), 0.3, np.float32)
    views[np.arange(N), 0, np.where(right, labels, 1 - labels)] = 0.7
    return Scores([f"v{n}" for n in range(N)], labels, views, ("p", "q"), groups=groups)


def right_of(scores: Scores) -> np.ndarray:
    return (scores.mean.argmax(axis=1) == scores.labels).astype(np.float64)


def resampled_means(values: np.ndarray) -> np.ndarray:
    """Return the means of 20,000 bootstrap samples of whole groups."""
    rng = np.random.default_rng(5)
    sums = np.array([values[group == GROUPS].sum() for group in np.unique(GROUPS)])
    drawn = rng.integers(0, len(SIZES), (20_000, len(SIZES)))
    return sums[drawn].sum(axis=1) / np.array(SIZES)[drawn].sum(axis=1)


def test_groups_are_kept_in_scores_and_files_without_them_are_read(tmp_path):
    save(tmp_path / "new", scores_of(0), {})
    assert load(tmp_path / "new").groups.tolist() == GROUPS.tolist()
    save(tmp_path / "old", scores_of(0, None), {})
    assert load(tmp_path / "old").groups is None
    with np.load(tmp_path / "old" / SCORES) as file:
        assert sorted(file.files) == ["classes", "keys", "labels", "scores"]


@pytest.mark.parametrize("groups", [GROUPS[1:], GROUPS.astype(np.float64)])
def test_groups_of_another_form_are_rejected(tmp_path, groups):
    save(tmp_path, scores_of(0, groups), {})
    with pytest.raises(ScoresError, match=r"scores\.npz: groups are .*expected uint64 \(120,\)"):
        load(tmp_path)


def test_a_fused_test_has_the_groups_of_its_parts():
    first = scores_of(0, None)
    second = scores_of(1)
    rows = np.arange(N)[::-1]
    keys = [second.keys[row] for row in rows]
    turned = Scores(
        keys, second.labels[rows], second.scores[rows], second.classes, groups=GROUPS[rows]
    )
    assert fuse([first, turned], [1, 1]).groups.tolist() == GROUPS.tolist()


def test_an_interval_is_that_of_resampled_groups():
    scores = scores_of(0)
    low, high = intervals(scores, labeled_groups(scores))["top1"]
    wanted = np.quantile(resampled_means(right_of(scores)), [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(wanted), abs=0.03)
    single = intervals(scores)["top1"]
    assert high - low > 1.5 * (single[1] - single[0])


def test_a_paired_test_exchanges_whole_groups():
    first, second = (right_of(scores_of(seed)) for seed in (0, 3))
    found = compare(first[None], second[None], GROUPS)
    differences = first - second
    wanted = np.quantile(resampled_means(differences), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(wanted), abs=0.03)
    sums = np.array([differences[group == GROUPS].sum() for group in np.unique(GROUPS)])
    signs = np.random.default_rng(7).choice([-1, 1], (20_000, len(sums)))
    share = (np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9).mean()
    assert found.p == pytest.approx(share, abs=0.015)
    assert found.num_groups == len(SIZES)
    assert permutation_p(differences) < found.p


def test_the_error_over_seeds_and_groups_grows_with_the_groups():
    # The seeds are right on the same groups, up to one video in twenty.
    rng = np.random.default_rng(1)
    values = np.abs(right_of(scores_of(0)) - (rng.random((3, N)) < 0.05))
    grouped = estimate(values, GROUPS)
    single = estimate(values)
    assert grouped.mean == single.mean
    assert grouped.high - grouped.low > single.high - single.low


def test_a_single_group_has_no_interval():
    one = np.zeros(N, np.uint64)
    assert intervals(scores_of(0, one), labeled_groups(scores_of(0, one))) == {}
    found = compare(np.ones((1, N)), np.zeros((1, N)), one)
    assert math.isnan(found.low)
    assert found.p == 1


def test_videos_that_are_all_alone_in_their_groups_are_resampled_singly(tmp_path):
    alone = np.arange(N, dtype=np.uint64)
    assert labeled_groups(scores_of(0, alone)) is None
    save(tmp_path, scores_of(0, alone), {})
    store_intervals(tmp_path)
    assert load_result(tmp_path)["interval_groups"] is None
    assert measure(tmp_path).groups is None


def test_result_page_and_terminal_say_that_groups_are_resampled(tmp_path, capsys):
    # The second test is of a version that did not store groups.
    for name, seed, groups in (("a", 0, GROUPS), ("b", 3, None)):
        run_dir = write_run(tmp_path / "runs" / name, f"optim.lr=0.0{seed + 1}")
        folder = run_dir / "tests" / "val-1x1-224"
        save(folder, scores_of(seed, groups), {"dataset": "motions", "missing": []})
        store_intervals(folder)
    first, second = (tmp_path / "runs" / name for name in "ab")
    result = json.loads((first / "tests" / "val-1x1-224" / "result.json").read_text())
    assert result["interval_groups"] == len(SIZES)
    wanted = compare(*(right_of(scores_of(seed))[None] for seed in (0, 3)), GROUPS)
    assert compare_paths(first, second)[1] == wanted
    _print_comparison(first, second)
    assert "120 videos in 40 groups, seeds: 1 and 1" in capsys.readouterr().out
    write_report(load_runs([tmp_path / "runs"]), tmp_path / "out")
    page = (tmp_path / "out" / "results.html").read_text()
    assert "These videos form 40 groups. Intervals and tests resample whole groups" in page


def test_the_interval_of_a_cross_validation_is_that_of_resampled_groups(tmp_path):
    seeds = (0, 3)
    for fold in range(2):
        run_dir = write_run(
            tmp_path / str(fold), "data.folds=2", f"data.fold={fold}", "data.test_split=fold"
        )
        facts = {"dataset": "motions", "missing": []}
        save(run_dir / "tests" / "fold-1x1-224", scores_of(seeds[fold]), facts)
    frame = load_runs([tmp_path])
    (row,) = fold_table(frame, read_tests(frame)[0]).to_dict("records")
    # 20,000 bootstrap samples of the 80 groups of both folds, by hand.
    right = [right_of(scores_of(seed)) for seed in seeds]
    sums = np.concatenate(
        [[own[group == GROUPS].sum() for group in np.unique(GROUPS)] for own in right]
    )
    sizes = np.array(SIZES * 2)
    drawn = np.random.default_rng(5).integers(0, 80, (20_000, 80))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    assert row["top1_low"] == pytest.approx(low, abs=0.01)
    assert row["top1_high"] == pytest.approx(high, abs=0.01)

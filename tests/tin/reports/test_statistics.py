"""Intervals and paired tests against scipy, a few independent lines, and simulated truth."""

import itertools

import numpy as np
import pytest
from scipy import stats

from tin.reports.statistics import (
    RESAMPLES,
    bootstrap_means,
    compare,
    estimate,
    holm,
    percentile_interval,
    permutation_p,
    resample_counts,
    smallest_difference,
    t_quantile,
    t_tail,
)


@pytest.mark.parametrize("freedom", [1.0, 2.0, 4.5, 30.0, 10_000.0])
def test_students_t_equals_scipys(freedom):
    for t in (0.0, 0.5, 2.0, 6.0):
        assert t_tail(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), abs=1e-6)
    assert t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-6)


def test_the_interval_equals_a_bootstrap_of_a_few_lines():
    values = np.random.default_rng(1).random(200)
    found = estimate(values[None])
    rng = np.random.default_rng(2)
    means = [rng.choice(values, len(values)).mean() for _ in range(4000)]
    low, high = np.quantile(means, [0.025, 0.975])
    # Two bootstraps differ by chance: the ends of 1,000 resamples have an error of about 0.002.
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)


def test_the_interval_equals_scipys_bootstrap():
    values = np.random.default_rng(3).exponential(size=300)
    wanted = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=4)
    found = estimate(values[None])
    ends = wanted.confidence_interval
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), abs=0.03)


def test_whole_groups_are_resampled():
    groups = np.array([7, 7, 7, 2, 2, 9])
    counts = resample_counts(6, groups)
    assert counts.shape == (RESAMPLES, 6)
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 3] == counts[:, 4]).all()
    assert (counts[:, 0].astype(int) + counts[:, 3] + counts[:, 5] == 3).all()  # three groups
    # 50 groups of 8 equal videos have the interval of 50 videos.
    single = np.random.default_rng(0).integers(0, 2, 50).astype(float)
    repeated = estimate(np.repeat(single, 8)[None], np.repeat(np.arange(50), 8))
    assert (repeated.low, repeated.high) == (
        estimate(single[None]).low,
        estimate(single[None]).high,
    )


def test_a_resample_without_videos_has_no_mean():
    counts = np.zeros((RESAMPLES, 2), np.uint8)
    counts[0] = 1
    means = bootstrap_means(np.array([[1.0], [3.0]]), counts)
    assert means[0, 0] == 2
    assert np.isnan(means[1:]).all()
    assert percentile_interval(means[:, 0]) == (2, 2)


def test_the_permutation_test_equals_all_permutations():
    differences = np.array([0.4, -0.1, 0.3, 0.2, 0.5, -0.2, 0.1, 0.6])
    sums = [np.dot(signs, differences) for signs in itertools.product((-1, 1), repeat=8)]
    exact = np.mean(np.abs(sums) >= differences.sum() - 1e-9)
    assert permutation_p(differences) == pytest.approx(exact, abs=0.006)


def test_the_permutation_test_of_two_classifiers_is_mcnemars():
    # 30 videos that only the first model gets right, and 14 that only the second does.
    first = np.repeat([1.0, 0.0, 1.0, 0.0], [30, 14, 100, 20])
    second = np.repeat([0.0, 1.0, 1.0, 0.0], [30, 14, 100, 20])
    found = compare(first[None], second[None])
    assert found.difference == pytest.approx(16 / 164)
    assert found.p == pytest.approx(stats.binomtest(30, 44).pvalue, abs=0.005)
    assert not found.covers_seeds


def test_the_same_values_give_the_same_numbers():
    values = np.random.default_rng(5).integers(0, 2, (2, 100)).astype(float)
    assert compare(values[:1], values[1:]) == compare(values[:1], values[1:])


def test_a_model_does_not_differ_from_itself():
    values = np.random.default_rng(5).integers(0, 2, (3, 100)).astype(float)
    found = compare(values, values)
    assert (found.difference, found.p) == (0, pytest.approx(1.0))


def test_under_the_null_hypothesis_one_test_in_twenty_rejects():
    rng = np.random.default_rng(0)
    num_trials = 400
    rejected = covered = 0
    for _ in range(num_trials):
        # The same model twice: on each video, both are right with the same probability.
        chance = rng.uniform(size=200)
        first, second = (rng.uniform(size=(2, 200)) < chance).astype(float)
        found = compare(first[None], second[None])
        rejected += found.p < 0.05
        covered += found.low <= 0 <= found.high
    # Of 400 tests at 5 %, 20 reject on average; the standard deviation is 4.4.
    assert 8 <= rejected <= 33
    assert 367 <= covered <= 392


def test_with_seeds_the_test_rejects_at_most_one_time_in_twenty():
    rng = np.random.default_rng(0)
    num_trials = 150
    rejected = {"videos": 0, "seeds": 0}
    for _ in range(num_trials):
        # The seeds of both methods differ by as much as the methods might.
        skill = rng.normal(size=200) + 0.3 * rng.normal(size=(6, 1))
        values = (rng.normal(size=(6, 200)) < skill).astype(float)
        rejected["seeds"] += compare(values[:3], values[3:]).p < 0.05
        rejected["videos"] += compare(values[:1], values[3:4]).p < 0.05
    assert rejected["seeds"] <= 15  # twice the expected number is three deviations away
    assert rejected["videos"] > 20  # a test of single seeds speaks of the trained models alone


def test_a_true_difference_between_seeds_is_found():
    rng = np.random.default_rng(0)
    skill = rng.normal(size=400)
    better = (rng.normal(size=(3, 400)) < skill + 0.5).astype(float)
    worse = (rng.normal(size=(3, 400)) < skill).astype(float)
    found = compare(better, worse)
    assert found.covers_seeds
    assert found.p < 0.01
    assert found.low > 0


def test_holms_correction_by_hand():
    # 0.01 times 4, 0.02 times 3, 0.03 times 2 (not below the one before it), 0.5 times 1.
    assert holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_smallest_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(0)
    typical = rng.choice([-1.0, 0.0, 1.0], 300, p=[0.1, 0.8, 0.1])
    smallest = smallest_difference(typical)
    assert smallest == pytest.approx(2.8016 * typical.std() / np.sqrt(300), rel=1e-3)
    shift = smallest / 2
    found = 0
    for _ in range(200):
        differences = rng.choice([-1.0, 0.0, 1.0], 300, p=[0.1 - shift, 0.8, 0.1 + shift])
        found += permutation_p(differences) < 0.05
    assert 140 <= found <= 180  # 160 on average; the standard deviation is 5.7

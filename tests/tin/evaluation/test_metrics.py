"""Metrics against tables of the original code, definitions, and arithmetic by hand."""

import json
import math

import numpy as np
import pytest

from tin.evaluation.metrics import label_ranks, map_class, map_sample, mean_class_accuracy, top_k

SCORES = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])


def test_mean_average_precision_over_samples_equals_the_original_code(shared):
    table = json.loads((shared / "reference/tables/mean_average_precision.json").read_text())
    for case in table:
        scores = np.array(case["scores"])
        labels = np.array(case["labels"])
        labeled_share = labels.any(axis=1).mean()  # the original counts the others as zero
        found = 100 * map_sample(scores, labels) * labeled_share
        assert found == pytest.approx(case["mAP_percent"], abs=1e-4), case["seed"]


def test_accuracy_over_views_equals_the_original_code(shared):
    table = json.loads((shared / "reference/tables/test_time_averaging.json").read_text())
    for case in table:
        logits = np.array(case["logits"])
        labels = np.array(case["target"])
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        mean = scores.reshape(len(labels), case["dup_samples"], -1).mean(axis=1)
        np.testing.assert_allclose(mean, case["averaged_probabilities"], rtol=1e-4, atol=1e-6)
        assert 100 * top_k(mean, labels, 1) == pytest.approx(case["prec1"], abs=1e-4)
        assert 100 * top_k(mean, labels, 5) == pytest.approx(case["prec5"], abs=1e-4)


def test_a_rank_counts_better_scores_and_equal_scores_of_lower_classes():
    assert label_ranks(SCORES, np.array([1, 2, 0, 1])).tolist() == [0, 1, 2, 1]
    assert label_ranks(SCORES, np.array([-1, -1, -1, 0])).tolist() == [-1, -1, -1, 0]


def test_top_k_by_hand():
    labels = np.array([1, 2, 0, 1])
    assert top_k(SCORES, labels, 1) == 0.25
    assert top_k(SCORES, labels, 2) == 0.75
    assert top_k(SCORES, labels, 5) == 1.0


def test_videos_without_a_label_are_left_out():
    labels = np.array([1, -1, -1, 1])
    assert top_k(SCORES, labels, 1) == 0.5
    assert mean_class_accuracy(SCORES, labels) == 0.5
    assert math.isnan(top_k(SCORES, np.full(4, -1), 1))
    assert math.isnan(mean_class_accuracy(SCORES, np.full(4, -1)))


def test_mean_class_accuracy_gives_each_class_the_same_weight():
    scores = np.eye(3)[[0, 0, 0, 1]]
    labels = np.array([0, 0, 1, 1])  # class 0: 2 of 2, class 1: 1 of 2, class 2: no video
    assert mean_class_accuracy(scores, labels) == 0.75


def test_average_precision_by_hand():
    scores = np.array([[0.9, 0.8, 0.7, 0.6]])
    targets = np.array([[1, 0, 1, 0]])
    assert map_sample(scores, targets) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert map_class(scores.T, targets.T) == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_equal_scores_share_one_precision_whatever_their_order():
    targets = np.array([[1, 0, 0, 1]])
    scores = np.array([[0.5, 0.5, 0.5, 0.1]])
    for order in ([0, 1, 2, 3], [2, 1, 0, 3], [3, 1, 0, 2]):
        found = map_sample(scores[:, order], targets[:, order])
        assert found == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_classes_and_videos_without_a_positive_are_left_out():
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.6]])
    targets = np.array([[1, 0, 0], [0, 0, 0]])
    assert map_class(scores, targets) == 1.0
    assert map_sample(scores, targets) == 1.0
    assert math.isnan(map_class(scores, np.zeros((2, 3))))


def test_the_averages_over_classes_and_over_videos_differ():
    scores = np.array([[0.9, 0.8], [0.95, 0.1]])
    targets = np.array([[0, 1], [1, 0]])
    assert map_class(scores, targets) == 1.0  # in each column the positive video comes first
    assert map_sample(scores, targets) == pytest.approx((1 / 2 + 1) / 2)


def test_average_precision_equals_the_area_under_the_curve():
    """The area is the sum over thresholds of the precision times the gain in recall."""
    draw = np.random.default_rng(0)
    scores = draw.integers(0, 6, (5, 40)) / 5  # many scores are equal
    targets = draw.random((5, 40)) < 0.3
    expected = []
    for row, positive in zip(scores, targets, strict=True):
        area = 0.0
        recall = 0.0
        for threshold in sorted(set(row), reverse=True):
            chosen = row >= threshold
            now = (chosen & positive).sum() / positive.sum()
            area += (now - recall) * (chosen & positive).sum() / chosen.sum()
            recall = now
        expected.append(area)
    assert map_sample(scores, targets) == pytest.approx(np.mean(expected))
    assert map_class(scores.T, targets.T) == pytest.approx(np.mean(expected))

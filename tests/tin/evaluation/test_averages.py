"""Averages of scores and of logits over views and models."""

import numpy as np
import pytest

from tin.evaluation.averages import average


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def test_an_average_of_scores_is_their_mean():
    views = np.float32([[[0.2, 0.8], [0.6, 0.4]]])
    np.testing.assert_allclose(average(views, "scores", False), [[0.4, 0.6]], rtol=1e-7)


def test_an_average_of_logits_is_the_softmax_of_the_mean_logits():
    logits = np.random.default_rng(0).normal(0, 4, (5, 6, 7))  # (N, V, K)
    found = average(_softmax(logits).astype(np.float32), "logits", False)
    np.testing.assert_allclose(found, _softmax(logits.mean(axis=1)), rtol=2e-6)


def test_with_several_labels_it_is_the_sigmoid_of_the_mean_logits():
    logits = np.random.default_rng(0).normal(0, 2, (5, 6, 7))
    found = average(_sigmoid(logits).astype(np.float32), "logits", True)
    # A float32 probability near 1 has few digits of its logit.
    np.testing.assert_allclose(found, _sigmoid(logits.mean(axis=1)), rtol=1e-4)


def test_averages_of_logits_equal_values_computed_by_hand():
    # The odds 1:4 and 1:1 have the geometric mean 1:2.
    views = np.array([[0.2, 0.8], [0.5, 0.5]])
    np.testing.assert_allclose(average(views, "logits", False), [1 / 3, 2 / 3], rtol=1e-12)
    # The odds of each class: (1/4 and 1, 4 and 1), whose geometric means are 1/2 and 2.
    np.testing.assert_allclose(average(views, "logits", True), [1 / 3, 2 / 3], rtol=1e-12)


def test_a_weighted_average_counts_a_view_as_often_as_its_weight():
    views = np.array([[0.2, 0.8], [0.5, 0.5]])
    repeated = views[[0, 0, 0, 1]]
    for how in ("scores", "logits"):
        for multi_label in (False, True):
            np.testing.assert_allclose(
                average(views, how, multi_label, [3, 1]), average(repeated, how, multi_label)
            )


@pytest.mark.parametrize("multi_label", [False, True])
def test_scores_of_zero_and_one_give_finite_averages(multi_label):
    views = np.float32([[0, 1, 0], [0, 1, 0]])
    found = average(views, "logits", multi_label)
    np.testing.assert_allclose(found, [0, 1, 0], atol=1e-7)
    opposite = average(np.float32([[0, 1], [1, 0]]), "logits", multi_label)
    assert np.isfinite(opposite).all()


def test_the_averages_can_choose_different_classes():
    # The mean scores are .493 and .507; the products are .88 * .3 * .3 and .12 * .7 * .7.
    views = np.array([[0.88, 0.12], [0.3, 0.7], [0.3, 0.7]])
    assert average(views, "scores", False).argmax() == 1
    assert average(views, "logits", False).argmax() == 0

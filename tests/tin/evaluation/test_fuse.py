"""Fused scores, fitted weights, and submission files."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tin.evaluation.fuse import fit_weights, fuse, fuse_tests, write_submission
from tin.evaluation.scores import Scores, ScoresError, load, load_result, save


def _scores(mean, labels=(0, 1), keys=("a", "b"), classes=("p", "q", "r")) -> Scores:
    return Scores(list(keys), np.array(labels), np.float32(mean)[:, None], classes)


FIRST = _scores([[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]])
SECOND = _scores([[0.4, 0.5, 0.1], [0.2, 0.6, 0.2]])


def test_fused_scores_are_the_weighted_mean():
    fused = fuse([FIRST, SECOND], [3, 1])  # the sum does not matter
    np.testing.assert_allclose(fused.mean, [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]], atol=1e-7)
    assert fused.scores.shape == (2, 1, 3)


def test_views_are_averaged_before_models():
    two = Scores(["a"], np.array([0]), np.float32([[[0.2, 0.8], [0.6, 0.4]]]), ("p", "q"))
    one = Scores(["a"], np.array([0]), np.float32([[[1.0, 0.0]]]), ("p", "q"))
    np.testing.assert_allclose(fuse([two, one], [1, 1]).mean, [[0.7, 0.3]], atol=1e-7)


def test_videos_are_matched_by_key_and_not_by_row():
    reversed_order = _scores([[0.2, 0.6, 0.2], [0.4, 0.5, 0.1]], labels=(1, 0), keys=("b", "a"))
    np.testing.assert_array_equal(
        fuse([FIRST, reversed_order], [1, 1]).scores, fuse([FIRST, SECOND], [1, 1]).scores
    )


def test_fitted_weights_have_the_highest_likelihood():
    # The labels get .8 .2 and .4 .6: log(.4+.4w) + log(.6-.4w) is highest at w = 1/4.
    np.testing.assert_allclose(fit_weights([FIRST, SECOND]), [0.25, 0.75], atol=1e-4)


def test_a_model_that_is_worse_everywhere_gets_no_weight():
    worse = _scores([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1]])
    assert fit_weights([FIRST, worse])[1] < 1e-3


def test_with_several_labels_each_class_counts_in_the_fit():
    labels = np.array([[1, 0]], np.uint8)
    good = Scores(["a"], labels, np.float32([[[0.9, 0.1]]]), ("p", "q"))
    bad = Scores(["a"], labels, np.float32([[[0.1, 0.9]]]), ("p", "q"))
    assert fit_weights([bad, good])[1] > 0.999


def test_fused_tests_are_written_as_a_test(tmp_path):
    save(tmp_path / "one", FIRST, {})
    save(tmp_path / "two", SECOND, {})
    folders = [tmp_path / "one", tmp_path / "two"]
    result = fuse_tests(folders, tmp_path / "both", fit=folders)
    assert result == load_result(tmp_path / "both")
    assert result["weights"] == pytest.approx([0.25, 0.75], abs=1e-4)
    assert result["metrics"]["top1"] == 1.0  # .5 .4 .1 and .3 .5 .2
    np.testing.assert_allclose(load(tmp_path / "both").mean[0], [0.5, 0.4, 0.1], atol=1e-4)
    assert fuse_tests(folders, tmp_path / "even")["weights"] == [0.5, 0.5]


def test_logits_are_averaged_over_views_and_models(tmp_path):
    # Views of odds 1:4 and 1:1 have the odds 1:2, and with a model of odds 1:8 they have 1:4.
    two = Scores(["a"], np.array([0]), np.float32([[[0.2, 0.8], [0.5, 0.5]]]), ("p", "q"))
    one = Scores(["a"], np.array([0]), np.float32([[[1 / 9, 8 / 9]]]), ("p", "q"))
    np.testing.assert_allclose(fuse([two, one], [1, 1], "logits").mean, [[0.2, 0.8]], atol=1e-6)
    save(tmp_path / "two", replace(two, average="logits"), {})
    save(tmp_path / "one", replace(one, average="logits"), {})
    folders = [tmp_path / "two", tmp_path / "one"]
    result = fuse_tests(folders, tmp_path / "both")
    assert result["average"] == "logits"
    assert load(tmp_path / "both").average == "logits"
    assert fuse_tests(folders, tmp_path / "scores", how="scores")["average"] == "scores"
    np.testing.assert_allclose(load(tmp_path / "scores").mean, [[0.230556, 0.769444]], atol=1e-6)


def test_tests_that_average_differently_need_a_choice(tmp_path):
    save(tmp_path / "one", FIRST, {})
    save(tmp_path / "two", replace(SECOND, average="logits"), {})
    folders = [tmp_path / "one", tmp_path / "two"]
    with pytest.raises(ScoresError, match="one averages scores .*two averages logits; choose"):
        fuse_tests(folders, tmp_path / "both")
    assert fuse_tests(folders, tmp_path / "both", how="logits")["average"] == "logits"


def test_weights_are_not_fitted_for_averages_of_logits(tmp_path):
    save(tmp_path / "one", FIRST, {})
    with pytest.raises(ScoresError, match="fitted only for averages of scores"):
        folders = [tmp_path / "one"]
        fuse_tests(folders, tmp_path / "out", fit=folders, how="logits")


@pytest.mark.parametrize(
    ("other", "weights", "message"),
    [
        (SECOND, [1], "fusing 2 tests takes 2 finite weights"),
        (SECOND, [1, -1], "none of them negative"),
        (SECOND, [0, 0], "at least one above 0"),
        (SECOND, [1, float("nan")], "2 finite weights"),
        (
            _scores([[1, 0, 0]], [0], ["a"]),
            [1, 1],
            "test 2 has 1 videos and test 1 has 2.*for example b",
        ),
        (_scores([[1, 0, 0]] * 2, keys=("a", "c")), [1, 1], "1 videos of test 1 are not in test 2"),
        (_scores([[1, 0, 0]] * 2, classes=("p", "r", "q")), [1, 1], "test 2 has other classes"),
        (_scores([[1, 0, 0]] * 2, labels=(0, 2)), [1, 1], "test 2 has other labels"),
    ],
)
def test_tests_that_do_not_match_are_rejected(other, weights, message):
    with pytest.raises(ScoresError, match=message):
        fuse([FIRST, other], weights)


def test_fitting_weights_fails_without_labels():
    with pytest.raises(ScoresError, match="no video has a label"):
        fit_weights([_scores([[1, 0, 0]] * 2, labels=(-1, -1))] * 2)


def test_fitting_weights_fails_on_other_classes(tmp_path):
    save(tmp_path / "one", FIRST, {})
    save(tmp_path / "two", _scores([[0.4, 0.5, 0.1]] * 2, classes=("p", "q", "s")), {})
    with pytest.raises(ScoresError, match="two has other classes than .*one"):
        fuse_tests([tmp_path / "one"], tmp_path / "out", fit=[tmp_path / "two"])


def test_a_csv_submission_lists_the_classes_of_each_video_by_rank(tmp_path):
    write_submission(_scores([[0.8, 0.15, 0.05], [0.1, 0.2, 0.7]]), tmp_path / "s.csv", top=2)
    assert (tmp_path / "s.csv").read_text() == "a;p;q\nb;r;q\n"


def test_a_json_submission_has_the_format_of_kinetics(tmp_path):
    write_submission(_scores([[0.75, 0.25, 0]], [-1], ["a"]), tmp_path / "s.json", top=2)
    assert json.loads((tmp_path / "s.json").read_text()) == {
        "version": "KINETICS VERSION 1.0",
        "results": {"a": [{"label": "p", "score": 0.75}, {"label": "q", "score": 0.25}]},
        "external_data": {},
    }


def test_other_suffixes_of_a_submission_are_rejected(tmp_path):
    with pytest.raises(ScoresError, match=r"must end in \.csv or \.json"):
        write_submission(FIRST, tmp_path / "s.txt")

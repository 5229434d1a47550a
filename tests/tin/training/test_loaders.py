"""Settings that do not fit the dataset or each other."""

import pytest
from short_runs import ONE_EPOCH, train_run

from configs.load import ConfigError


def test_a_loss_that_does_not_fit_the_labels_is_rejected(dataset, tmp_path):
    told = "tiny, which has one label per video; set train.loss=nll"
    with pytest.raises(ConfigError, match=told):
        train_run(tmp_path, f"data.dataset={dataset}", "train.loss=bce")


def test_a_learning_rate_for_another_batch_size_gives_a_warning(dataset, tmp_path, caplog):
    train_run(tmp_path, f"data.dataset={dataset}", "optim.lr_batch=48", "train.epochs=1")
    told = "optim.lr=0.02 is meant for batches of optim.lr_batch=48 clips, but train.batch=4"
    assert told in caplog.text


def test_a_small_test_split_gives_a_warning_of_what_it_can_show(dataset, tmp_path, caplog):
    train_run(tmp_path, f"data.dataset={dataset}", *ONE_EPOCH)
    # Of 24 videos, 2 sqrt(0.25 / 24) is 20.4 %.
    assert (
        "split train has 24 videos: one video is 4.2 points of top-1, and a difference of less"
        " than about 21 points between two epochs or runs may be chance" in caplog.text
    )


def test_a_run_of_one_epoch_says_that_its_warm_up_is_shortened(dataset, tmp_path, caplog):
    settings = (f"data.dataset={dataset}", *ONE_EPOCH, "optim.warmup_epochs=1")
    train_run(tmp_path, *settings)
    assert "the warm-up is shortened to 0.5 epochs" in caplog.text

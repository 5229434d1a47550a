"""Settings that do not fit the dataset or each other."""

import pytest
from short_runs import train_run

from configs.load import ConfigError


def test_a_loss_that_does_not_fit_the_labels_is_rejected(dataset, tmp_path):
    told = "tiny, which has one label per video; set train.loss=nll"
    with pytest.raises(ConfigError, match=told):
        train_run(tmp_path, f"data.dataset={dataset}", "train.loss=bce")


def test_a_learning_rate_for_another_batch_size_gives_a_warning(dataset, tmp_path, caplog):
    train_run(tmp_path, f"data.dataset={dataset}", "optim.lr_batch=48", "train.epochs=1")
    told = "optim.lr=0.02 is meant for batches of optim.lr_batch=48 clips, but train.batch=4"
    assert told in caplog.text

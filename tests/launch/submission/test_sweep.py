"""Sweeps: each combination of the listed values becomes a run."""

import pytest

from configs.load import ConfigError
from launch.submission.sweep import expand


def test_lists_become_all_combinations_each_with_a_folder():
    runs = expand(["optim.lr=0.01,0.02", "train.seed=0,1,2", "train.epochs=3"])
    assert len(runs) == 6
    assert runs["optim.lr-0.02_train.seed-1"] == [
        "optim.lr=0.02",
        "train.seed=1",
        "train.epochs=3",
    ]


def test_settings_without_a_list_are_one_run_in_the_folder_itself():
    assert expand(["optim.lr=0.01"]) == {"": ["optim.lr=0.01"]}
    assert expand([]) == {"": []}


def test_a_list_in_brackets_or_quotes_is_one_value():
    assert list(expand(["optim.milestones=[10, 20],[30]"]).values()) == [
        ["optim.milestones=[10, 20]"],
        ["optim.milestones=[30]"],
    ]
    assert list(expand(["data.dataset='a,b'"])) == [""]


def test_names_of_folders_are_safe():
    assert list(expand(["data.dataset=/a/b,../c"])) == ["data.dataset-a-b", "data.dataset-..-c"]


def test_two_runs_never_share_a_folder():
    with pytest.raises(ConfigError, match="two runs of the sweep would have the same folder"):
        expand(["data.dataset=a/b,a-b"])

"""What is checked before jobs are submitted."""

import pytest

from configs.cluster import Cluster
from configs.load import ConfigError, load
from launch.submission.checks import _check_ranks


def test_groups_of_clips_must_divide_the_clips_of_a_rank():
    cluster = Cluster(executor="slurm", nodes=2, gpus_per_node=2)
    _check_ranks(cluster, load(None, ["train.batch=24", "train.bn_clips=3"]))
    with pytest.raises(ConfigError, match="bn_clips 5 does not divide the 6 clips of a pass on"):
        _check_ranks(cluster, load(None, ["train.batch=24", "train.bn_clips=5"]))

"""Cluster files: strict, with settings of each stage."""

from pathlib import Path

import pytest

from configs.cluster import CLUSTERS, for_stage, load_cluster
from configs.load import ConfigError


@pytest.mark.parametrize("name", [path.stem for path in CLUSTERS.glob("*.yaml")])
def test_every_example_can_be_read(name: str):
    cluster = load_cluster(name)
    for stage in ("shard", "train", "test", "report"):
        assert for_stage(cluster, stage).nodes >= 1


def test_one_rank_a_gpu_unless_tasks_are_named():
    assert load_cluster("gpu").ranks_per_node == 4
    assert load_cluster("gpu", ["tasks_per_node=2"]).ranks_per_node == 2
    assert load_cluster("local").ranks_per_node == 1


def test_stages_that_need_one_process_get_one():
    cluster = load_cluster("gpu")
    for stage in ("shard", "report"):
        small = for_stage(cluster, stage)
        assert (small.nodes, small.ranks_per_node, small.gpus_per_node) == (1, 1, 0)
        assert small.partition == "cpu"
    assert for_stage(cluster, "train").nodes == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partitoin: gpu", "mine.yaml: unknown setting partitoin; did you mean partition?"),
        ("nodes: two", "mine.yaml: nodes: found 'two', expected a valid integer"),
        ("restart: sometimes", "mine.yaml: restart: found 'sometimes', expected"),
        ("stages: {train: {gpus: 3}}", "mine.yaml, stages.train: unknown setting gpus"),
        ("stage: {dir: /tmp, keep_free: 10}", "mine.yaml: stage.keep_free: found 10, expected"),
    ],
)
def test_a_wrong_file_is_refused_with_file_key_and_reason(text: str, said: str, tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_cluster(str(path))
    assert said in str(error.value)


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ConfigError, match="no cluster file nowhere; .* cpu, debug, gpu, local"):
        load_cluster("nowhere")


def test_chain_counts_its_jobs():
    assert load_cluster("cpu").chain == 4
    assert load_cluster("gpu").chain == 0

"""Cluster files: strict, with settings of each stage."""

import logging
from pathlib import Path

import pytest

from configs.cluster import CLUSTERS, Staging, for_stage, load_cluster, load_submitted_cluster
from configs.load import ConfigError, dump


@pytest.mark.parametrize("name", [path.stem for path in CLUSTERS.glob("*.yaml")])
def test_every_example_can_be_read(name: str):
    cluster = load_cluster(name)
    for stage in ("shard", "train", "test", "report"):
        assert for_stage(cluster, stage).nodes >= 1


def test_a_gpu_has_one_rank_unless_tasks_per_node_is_set():
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
        ("staging: {dir: /tmp, keep_free: 10}", "mine.yaml: staging.keep_free: found 10, expected"),
    ],
)
def test_a_wrong_file_is_rejected_with_file_key_and_reason(text: str, said: str, tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_cluster(str(path))
    assert said in str(error.value)


def test_an_unknown_name_lists_the_known_names():
    with pytest.raises(ConfigError, match="no cluster file nowhere; .* cpu, debug, gpu, local"):
        load_cluster("nowhere")


def test_chain_counts_its_jobs():
    assert load_cluster("cpu").chain == 4
    assert load_cluster("gpu").chain == 0


OLD_NAMES = """\
stage: {dir: /disk, keep_free: 5%}
stages: {test: {stage: null}, train: {stage: {dir: /fast}}}
"""


def test_the_old_name_of_staging_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "mine.yaml"
    path.write_text(OLD_NAMES)
    cluster = load_cluster(str(path))
    assert cluster.staging == Staging(dir="/disk", keep_free="5%")
    assert for_stage(cluster, "test").staging is None
    assert for_stage(cluster, "train").staging == Staging(dir="/fast")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert "mine.yaml: the setting `stage` is now called `staging`" in caplog.text
    assert "mine.yaml, stages.test: the setting `stage`" in caplog.text
    assert "mine.yaml, stages.train: the setting `stage`" in caplog.text


def test_the_old_name_of_staging_works_on_the_command_line(caplog: pytest.LogCaptureFixture):
    assert load_cluster("cpu", ["stage.dir=/disk"]).staging == Staging(dir="/disk")
    assert "cpu.yaml: the setting `stage` is now called `staging`" in caplog.text


def test_the_new_name_of_staging_is_read_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "mine.yaml"
    path.write_text(OLD_NAMES.replace("stage:", "staging:"))
    assert load_cluster(str(path)).staging == Staging(dir="/disk", keep_free="5%")
    assert not caplog.records


def test_both_names_of_staging_together_are_rejected():
    with pytest.raises(ConfigError, match=r"gpu.yaml: found both `staging` and its old name"):
        load_cluster("gpu", ["stage=null"])
    with pytest.raises(ConfigError, match=r"cpu.yaml, stages.test: found both `staging`"):
        load_cluster("cpu", ["stages={test: {stage: null, staging: null}}"])


@pytest.mark.parametrize(
    ("text", "staging"), [("null", None), ("{dir: /disk}", Staging(dir="/disk"))]
)
def test_the_cluster_file_of_an_older_run_is_read_without_a_warning(
    text: str, staging: Staging | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "cluster.yaml"
    new = dump(load_cluster("cpu", ["stages={test: {nodes: 1, staging: {dir: /fast}}}"]))
    assert "\nstaging: null\n" in new
    path.write_text(new.replace("staging: null", f"stage: {text}").replace("staging:", "stage:"))
    cluster = load_submitted_cluster(path)
    assert cluster.staging == staging
    assert for_stage(cluster, "test").staging == Staging(dir="/fast")
    assert not caplog.records


def test_the_cluster_file_of_a_run_is_read_back_as_it_was_written(tmp_path: Path):
    cluster = load_cluster("gpu", ["nodes=3"])
    (tmp_path / "cluster.yaml").write_text(dump(cluster))
    assert load_submitted_cluster(tmp_path / "cluster.yaml") == cluster


@pytest.mark.parametrize(
    "setting", ['partition="a\\nb"', 'setup=["a\\nb"]', 'options={comment: "a\\nb"}']
)
def test_a_line_break_in_a_value_is_rejected(setting):
    """It would add a line to the batch script."""
    with pytest.raises(ConfigError, match="expected one line of printable characters"):
        load_cluster("cpu", [setting])

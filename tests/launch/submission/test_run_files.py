"""The files of a submission: written under a lock, and undone if it is rejected."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from configs.cluster import Cluster
from configs.load import ConfigError, load
from launch.submission.run_files import run_files


def nothing() -> None:
    pass


def reject() -> None:
    raise ConfigError("a job is running")


def test_a_submission_writes_settings_cluster_and_code(tmp_path: Path):
    run_dir = tmp_path / "run"
    with run_files(run_dir, {run_dir: load(None)}, Cluster(nodes=3), nothing) as code:
        assert code == run_dir / "job" / "code-01"
    assert (code / "launch" / "cli.py").exists()
    assert "nodes: 3" in (run_dir / "job" / "cluster.yaml").read_text()
    with run_files(run_dir, {run_dir: load(None)}, Cluster(), nothing) as code:
        assert code.name == "code-02"


@pytest.mark.parametrize("during", [True, False])
def test_a_rejected_submission_leaves_no_run_behind(during: bool, tmp_path: Path):
    sweep = tmp_path / "sweep"
    configs = {sweep / name: load(None) for name in ("a", "b")}
    with (
        pytest.raises(ConfigError, match="a job is running"),
        run_files(sweep, configs, Cluster(), nothing if during else reject),
    ):
        reject()
    assert not any(path.name == "job" for path in tmp_path.rglob("*"))


def test_a_rejected_submission_leaves_an_older_run_as_it_was(tmp_path: Path):
    run_dir = tmp_path / "run"
    with run_files(run_dir, {run_dir: load(None)}, Cluster(nodes=3), nothing):
        (run_dir / "job" / "jobs.jsonl").write_text("")
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with (
        pytest.raises(ConfigError),
        run_files(run_dir, {run_dir: load(None, ["train.seed=5"])}, Cluster(), nothing),
    ):
        (run_dir / "job" / "jobs.jsonl").write_text("{}")
        reject()
    after = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    assert after == before


def test_submissions_of_a_run_take_turns(tmp_path: Path):
    run_dir = tmp_path / "run"
    inside = []

    def submit(seed: int) -> None:
        with run_files(run_dir, {run_dir: load(None)}, Cluster(), lambda: inside.append(seed)):
            assert inside[-1] == seed
            inside.append(-seed)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(submit, (1, 2, 3)))
    assert [first + second for first, second in zip(inside[::2], inside[1::2], strict=True)] == [
        0,
        0,
        0,
    ]

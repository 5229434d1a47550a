"""What sbatch is asked for, and what a user is told where it refuses."""

from pathlib import Path

import pytest

from configs.cluster import for_stage, load_cluster
from configs.load import ConfigError
from launch.jobs.job import StageJob
from launch.submission.executor import make_executor, script, submit_jobs

REFUSING = """\
#!/bin/sh
echo "sbatch: error: invalid partition specified: gpu" >&2
echo "sbatch: error: Batch job submission failed: Invalid partition name specified" >&2
exit 1
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch) -> Path:
    """Return a folder of Slurm's commands that do nothing, or what a test writes there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"srun": "#!/bin/sh\n", "sbatch": REFUSING}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def batch_script(name: str, *settings: str, jobs: int = 1, stage: str = "train") -> str:
    cluster = for_stage(load_cluster(name, settings), stage)
    executor = make_executor(cluster, "demo", Path("/runs/logs"), Path("/runs/code"), "afterok:7")
    return script(executor, jobs)


def test_every_setting_reaches_the_batch_script(commands: Path):
    text = batch_script(
        "gpu",
        "account=vision",
        "qos=high",
        "constraint=a100&ib",
        "reservation=paper",
        "exclude=node[3-5]",
        "nice=100",
        "options={licenses: 'data:1', hold: true}",
        "srun=['--container-image=tin.sqsh']",
        "python=apptainer exec --nv tin.sif python",
    )
    for line in (
        "--account=vision",
        "--qos=high",
        "--constraint='a100&ib'",
        "--reservation=paper",
        "--exclude='node[3-5]'",
        "--nice=100",
        "--licenses=data:1",
        "--hold",
        "--partition=gpu",
        "--nodes=2",
        "--gpus-per-node=4",
        "--ntasks-per-node=4",
        "--cpus-per-task=8",
        "--mem=192GB",  # 48 a rank
        "--time=720",
        "--signal=USR2@180",
        "--requeue",
        "--dependency=afterok:7",
        "--kill-on-invalid-dep=yes",
        "--open-mode=append",
    ):
        assert f"#SBATCH {line}\n" in text
    srun = next(line for line in text.splitlines() if line.startswith("srun "))
    for word in ("--kill-on-bad-exit=1", "--cpus-per-task=8", "--container-image=tin.sqsh"):
        assert word in srun  # srun does not inherit the CPUs of sbatch
    assert "apptainer exec --nv tin.sif python -u -m submitit.core._submit /runs/logs" in srun
    after = next(line for line in text.splitlines() if "launch.jobs.requeue" in line)
    assert "--nodelist=$SLURMD_NODENAME --container-image=tin.sqsh apptainer exec" in after
    assert "export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0\n" in text
    assert "export PYTHONPATH=/runs/code" in text
    assert text.endswith("exit $rc")


def test_a_stage_of_one_process_asks_for_no_gpu(commands: Path):
    text = batch_script("gpu", stage="shard")
    assert "gpus" not in text
    assert "#SBATCH --partition=cpu\n" in text
    assert "#SBATCH --nodes=1\n" in text


def test_an_array_keeps_to_its_cap_and_a_chain_is_not_requeued(commands: Path):
    assert "#SBATCH --array=0-5%2\n" in batch_script("gpu", "parallel=2", jobs=6)
    text = batch_script("cpu")
    assert "#SBATCH --no-requeue\n" in text
    assert "#SBATCH --requeue\n" not in text


def test_a_refusal_is_one_line_with_what_there_is(commands: Path, tmp_path: Path, capsys):
    (commands / "sinfo").write_text("#!/bin/sh\necho main; echo low\n")
    (commands / "sinfo").chmod(0o755)
    with pytest.raises(ConfigError) as error:
        submit_jobs([StageJob("train", "/run")], load_cluster("gpu"), "x", tmp_path, tmp_path)
    assert str(error.value) == (
        "sbatch: invalid partition specified: gpu; there is main, low: change the cluster file"
    )
    assert capsys.readouterr().err == ""


def test_a_machine_without_slurm_is_told_so(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no srun: go to a login node, or --cluster local"):
        batch_script("gpu")

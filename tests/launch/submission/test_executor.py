"""The options of sbatch and srun, and the message for a job that sbatch rejects."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from configs.cluster import for_stage, load_cluster
from configs.load import ConfigError
from launch.jobs.job import StageJob
from launch.submission.executor import batch_script, submit_jobs

REJECTING = """\
#!/bin/sh
echo "sbatch: error: invalid partition specified: gpu" >&2
echo "sbatch: error: Batch job submission failed: Invalid partition name specified" >&2
exit 1
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on the path with an idle srun and an sbatch that rejects every job."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"srun": "#!/bin/sh\n", "sbatch": REJECTING}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def script_for(name: str, *settings: str, jobs: int = 1, stage: str = "train") -> str:
    cluster = for_stage(load_cluster(name, settings), stage)
    return batch_script(cluster, "demo", "/runs/logs/job-1", Path("/runs/code"), jobs, "afterok:7")


def test_every_setting_reaches_the_batch_script(commands: Path):
    text = script_for(
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
        "--mem=192GB",  # 48 for each of the 4 ranks
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
        assert word in srun
    assert "apptainer exec --nv tin.sif python -u -m launch.jobs.rank /runs/logs/job-1" in srun
    after = next(line for line in text.splitlines() if "launch.jobs.requeue" in line)
    assert "--nodelist=$SLURMD_NODENAME --container-image=tin.sqsh apptainer exec" in after
    assert "export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0\n" in text
    assert "export PYTHONPATH=/runs/code" in text
    assert text.endswith("exit $rc")


def test_a_stage_of_one_process_asks_for_no_gpu(commands: Path):
    text = script_for("gpu", stage="shard")
    assert "gpus" not in text
    assert "#SBATCH --partition=cpu\n" in text
    assert "#SBATCH --nodes=1\n" in text


@pytest.mark.parametrize(
    ("setting", "directive"),
    [
        ("gpus_per_node=a100:4", "--gpus-per-node=a100:4"),
        ("gpus_per_node=a100_1g.10gb:4", "--gpus-per-node=a100_1g.10gb:4"),
    ],
)
def test_typed_gpus_are_one_directive_and_count_as_ranks(
    setting: str, directive: str, commands: Path
):
    text = script_for("gpu", setting)
    assert f"#SBATCH {directive}\n" in text
    assert text.count("gres") == 0
    assert text.count("--gpus-per-node") == 1
    assert "#SBATCH --ntasks-per-node=4\n" in text


def test_gpus_by_the_name_gres_are_one_directive_and_count_as_ranks(commands: Path):
    text = script_for("gpu", "gpus_per_node=0", "options={gres: 'gpu:a100:2'}")
    assert "#SBATCH --gres=gpu:a100:2\n" in text
    assert "--gpus-per-node" not in text
    assert "#SBATCH --ntasks-per-node=2\n" in text


def test_a_percent_sign_in_a_path_is_not_a_pattern_of_slurm(commands: Path):
    cluster = load_cluster("gpu")
    text = batch_script(cluster, "demo", "/a%j/logs/job-1", Path("/code"), 1)
    assert "#SBATCH --output=/a%%j/logs/%j_0_log.out\n" in text
    assert "--output /a%%j/logs/%j_%t_log.out" in text
    assert "launch.jobs.rank /a%j/logs/job-1\n" in text


@pytest.mark.parametrize(
    ("environment", "requeued"),
    [
        ({"SLURM_JOB_ID": "9"}, "9"),
        # the last task of an array has the number of the whole array
        (
            {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"},
            "7_2",
        ),
    ],
)
def test_a_batch_script_requeues_its_own_task_only_and_has_patience(
    environment: dict[str, str], requeued: str, commands: Path, tmp_path: Path
):
    calls = tmp_path / "calls"
    squeue = f'echo "squeue $*" >> {calls}\n[ $(wc -l < {calls}) -gt 2 ] && echo RUNNING'
    for name, text in {
        "squeue": squeue,
        "scontrol": f'echo "scontrol $*" >> {calls}',
        "sleep": ":",
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)
    text = script_for("gpu").partition("# teardown\n")[2]
    # 74 is what launch.jobs.requeue exits with in a container
    text = "sh -c 'exit 75'\n" + re.sub(r"\{ \S+ -m launch.jobs.requeue .*", "{ rc=74; }", text)
    done = subprocess.run(["bash", "-c", text], env={**os.environ, **environment})
    assert done.returncode == 74
    assert calls.read_text().splitlines() == [
        *[f"squeue -h -j {requeued} -o %T"] * 3,
        f"scontrol requeue {requeued}",
    ]


def test_an_array_has_its_limit_of_parallel_tasks(commands: Path):
    assert "#SBATCH --array=0-5%2\n" in script_for("gpu", "parallel=2", jobs=6)


def test_a_job_of_a_chain_is_not_requeued(commands: Path):
    text = script_for("cpu")
    assert "#SBATCH --no-requeue\n" in text
    assert "#SBATCH --requeue\n" not in text


def test_a_rejection_is_one_line_with_the_valid_values(
    commands: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (commands / "sinfo").write_text("#!/bin/sh\necho main; echo low\n")
    (commands / "sinfo").chmod(0o755)
    with pytest.raises(ConfigError) as error:
        submit_jobs([StageJob("train", "/run")], load_cluster("gpu"), "x", tmp_path, tmp_path)
    assert str(error.value) == (
        "sbatch: invalid partition specified: gpu; this cluster has main, low:"
        " change the cluster file"
    )
    assert capsys.readouterr().err == ""


def test_a_machine_without_slurm_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="srun was not found: submit from a login node"):
        script_for("gpu")

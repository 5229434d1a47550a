"""The command line: fast help, clear errors, exit codes, the version."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from synthetic_videos import noise_frames, write_clip

from configs.load import ConfigError
from launch.errors import exit_code, explain
from pipeline.batches import BadDataError
from tin.training.trainer import Stopped

HEAVY = ("torch", "nvidia.dali", "pandas", "submitit", "numpy", "av")
COMMANDS = (
    "shard train test predict export report submit status logs cancel config check fuse "
    "data:verify data:merge data:demo weights:fetch weights:import weights:export "
    "op:build op:check bench:op bench:data bench:model bench:train"
)


def tin(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of the command line and return how it ended."""
    command = [sys.executable, "-m", "launch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)


def test_help_imports_nothing_heavy_and_every_command_has_help():
    code = f"""
import sys
from launch.cli import app
for command in {[[], *(command.split(":") for command in COMMANDS.split())]}:
    app([*command, "--help"], standalone_mode=False)
    assert not set({HEAVY}) & set(sys.modules), set({HEAVY}) & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage:") == 1 + len(COMMANDS.split())


def test_every_help_has_an_example():
    code = f"""
from launch.cli import app
for command in {[command.split(":") for command in COMMANDS.split()]}:
    app([*command, "--help"], standalone_mode=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    for command in COMMANDS.split():
        assert f"Example: tin {command.replace(':', ' ')}" in done.stdout


def test_completion_of_commands(tmp_path: Path):
    env = {
        **os.environ,
        "_TIN_COMPLETE": "complete_bash",
        "COMP_WORDS": "tin da",
        "COMP_CWORD": "1",
    }
    assert tin(env=env).stdout.split() == ["data"]


def test_quiet_leaves_out_the_log_and_keeps_results(tmp_path: Path):
    clip = write_clip(tmp_path / "s" / "a" / "0.mp4", noise_frames(2, 32))
    (tmp_path / "s" / "b").mkdir()
    shutil.copy(clip, tmp_path / "s" / "b")
    done = tin("shard", str(tmp_path / "s"), str(tmp_path / "d"), "--quiet")
    assert done.stderr == ""
    assert "next: tin train" in done.stdout


def test_config_without_a_recipe_lists_the_recipes():
    lines = tin("config").stdout.splitlines()
    assert lines[0].split() == "recipe dataset network temporal frames published".split()
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert rows["clips"][:5] == ["clips", "clips", "resnet18", "interlace", "8"]
    assert "tin_r50_8f_sthv1" in rows


def test_the_version_is_that_of_the_distribution():
    done = tin("--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"tin-video {version('tin-video')}\n"


def test_wrong_usage_exits_with_2_and_names_the_missing_option():
    done = tin("train")
    assert done.returncode == 2
    assert "Missing option '--run'" in done.stderr


def test_wrong_settings_exit_with_2_and_one_line(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("clip: {num_segmets: 8}")
    done = tin("config", str(tmp_path / "mine.yaml"))
    assert done.returncode == 2
    assert done.stderr == (
        "tin: mine.yaml: unknown setting clip.num_segmets; did you mean clip.num_segments?\n"
    )


def test_too_many_bad_videos_exit_with_3_and_name_the_file_of_reasons(tmp_path: Path):
    (tmp_path / "s" / "a").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "s" / "a" / f"{number}.mp4").touch()
    done = tin("shard", str(tmp_path / "s"), str(tmp_path / "d"))
    assert done.returncode == 3
    reasons = tmp_path / "d" / "quarantine.csv"
    assert "not one of 4 videos could be used, so there is nothing to train on" in done.stderr
    assert f"the reasons are in {reasons}" in done.stderr
    again = tin("shard", str(tmp_path / "s"), str(tmp_path / "d"), "shard.short_side=9")
    assert again.returncode == 2
    assert "started with short_side 256, but now it is 9" in again.stderr


def test_ctrl_c_while_sharding_tells_how_to_resume(tmp_path: Path):
    clip = write_clip(tmp_path / "s" / "a" / "0.mp4", noise_frames(100, 192))
    for number in range(1, 12):  # enough work for several seconds
        shutil.copy(clip, clip.with_name(f"{number}.mp4"))
    arguments = ["shard", str(tmp_path / "s"), str(tmp_path / "d"), "run.threads=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "launch", *arguments], stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob("d/.*.tar.*.tmp")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert "Finished shards are kept; run the same command again to resume" in said
    assert process.returncode == 130


def test_a_task_of_a_slurm_array_writes_its_part(tmp_path: Path):
    for number in range(5):  # empty videos, which fail: a shard of four and a shard of one
        (tmp_path / "s" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "s" / "a" / f"{number}.mp4").touch()
    array = {"COUNT": "2", "MIN": "5", "ID": "6"}
    tasks = {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()}
    command = ["shard", str(tmp_path / "s"), str(tmp_path / "d"), "shard.held_out=0"]
    done = tin(*command, env={**os.environ, **tasks})
    assert "d: 0 videos, 1 in quarantine" in done.stdout
    assert [path.name for path in (tmp_path / "d").glob("*.tar")] == ["train-00001.tar"]


def test_debug_prints_the_traceback_wherever_the_flag_is(tmp_path: Path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("clip: 3")
    for arguments in (["--debug", "config", str(recipe)], ["config", str(recipe), "--debug"]):
        done = tin(*arguments)
        assert done.returncode == 2
        assert "Traceback" in done.stderr


def test_the_output_of_config_is_a_recipe(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("train: {epochs: 7}\nsource: somewhere")
    first = tin("config", str(tmp_path / "mine.yaml"), "optim.lr=1e-3").stdout
    assert "epochs: 7" in first
    assert "lr: 0.001" in first
    (tmp_path / "again.yaml").write_text(first)
    assert tin("config", str(tmp_path / "again.yaml")).stdout == first


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (BadDataError("x"), 3),
        (Stopped("x"), 75),
        (RuntimeError("x"), 1),
    ],
)
def test_exit_codes(error: Exception, code: int):
    assert exit_code(error) == code


def test_an_error_of_the_file_system_names_the_path_without_an_error_number():
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b")
    assert explain(missing) == "a/b: No such file or directory"
    read_only = OSError(errno.EROFS, "Read-only file system", "a/b")
    assert explain(read_only) == (
        "a/b: Read-only file system; choose a folder that you may write to"
    )


def test_an_error_without_a_clear_text_names_its_type():
    assert explain(KeyError("shift")) == "KeyError: 'shift'"
    assert explain(ValueError("3 groups do not divide 4")) == "3 groups do not divide 4"
    assert explain(AssertionError()) == "AssertionError: no details"

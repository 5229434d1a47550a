"""The command line: quick help, clear errors, exit codes."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from synthetic_videos import noise_frames, write_clip

from configs.load import ConfigError
from launch.errors import exit_code, explain
from pipeline.batches import BadDataError
from tin.training.trainer import Stopped

HEAVY = ("torch", "nvidia.dali", "pandas", "submitit", "numpy", "av")
VERBS = (
    "shard train test predict report submit status logs cancel config check fuse "
    "data:verify data:merge data:demo weights:fetch weights:import weights:export "
    "op:build op:check bench:op bench:data bench:model bench:train"
)


def tin(*words: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "launch", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_help_imports_nothing_heavy_and_every_verb_has_help():
    code = f"""
import sys
from launch.cli import app
for verb in {[[], *(verb.split(":") for verb in VERBS.split())]}:
    app([*verb, "--help"], standalone_mode=False)
    assert not set({HEAVY}) & set(sys.modules), set({HEAVY}) & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage:") == 1 + len(VERBS.split())


def test_wrong_usage_is_2_with_the_command_that_helps():
    done = tin("train")
    assert done.returncode == 2
    assert "Missing option '--run'" in done.stderr


def test_wrong_settings_are_2_in_one_line(tmp_path):
    (tmp_path / "mine.yaml").write_text("clip: {num_segmets: 8}")
    done = tin("config", str(tmp_path / "mine.yaml"))
    assert done.returncode == 2
    assert done.stderr == (
        "tin: mine.yaml: unknown setting clip.num_segmets; did you mean clip.num_segments?\n"
    )


def test_more_bad_videos_than_allowed_are_3_and_say_where_the_reasons_are(tmp_path):
    (tmp_path / "s" / "a").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "s" / "a" / f"{number}.mp4").touch()
    done = tin("shard", str(tmp_path / "s"), str(tmp_path / "d"))
    assert done.returncode == 3
    assert "d: 0 videos, 4 in quarantine" in done.stdout
    assert f"could not be used, {tmp_path}/d/quarantine.csv says why" in done.stderr
    again = tin("shard", str(tmp_path / "s"), str(tmp_path / "d"), "shard.short_side=9")
    assert again.returncode == 2
    assert "started with short_side 256, but now it is 9" in again.stderr


def test_ctrl_c_while_sharding_says_that_the_same_command_goes_on(tmp_path):
    clip = write_clip(tmp_path / "s" / "a" / "0.mp4", noise_frames(100, 192))
    for number in range(1, 12):  # some seconds of work
        shutil.copy(clip, clip.with_name(f"{number}.mp4"))
    words = ["shard", str(tmp_path / "s"), str(tmp_path / "d"), "run.threads=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "launch", *words], stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob("d/.*.tar.*.tmp")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert "finished shards are kept, the same command goes on" in process.communicate()[1]
    assert process.returncode == 130


def test_a_task_of_a_slurm_array_shards_its_part(tmp_path):
    for number in range(5):  # videos that fail: shards of four and of one
        (tmp_path / "s" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "s" / "a" / f"{number}.mp4").touch()
    array = {"COUNT": "2", "MIN": "5", "ID": "6"}
    tasks = {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()}
    words = "shard", str(tmp_path / "s"), str(tmp_path / "d")
    done = tin(*words, env={**os.environ, **tasks})
    assert "d: 0 videos, 1 in quarantine" in done.stdout
    assert [path.name for path in (tmp_path / "d").glob("*.tar")] == ["train-00001.tar"]


def test_debug_shows_the_trace_at_any_place(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("clip: 3")
    for words in (["--debug", "config", str(recipe)], ["config", str(recipe), "--debug"]):
        done = tin(*words)
        assert done.returncode == 2
        assert "Traceback" in done.stderr


def test_config_prints_what_load_reads_back(tmp_path):
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
def test_exit_codes(error, code):
    assert exit_code(error) == code


def test_an_unknown_error_says_its_kind():
    assert explain(KeyError("shift")) == "KeyError: 'shift'"
    assert explain(ValueError("3 groups do not divide 4")) == "3 groups do not divide 4"
    assert explain(AssertionError()) == "AssertionError: no more is known"

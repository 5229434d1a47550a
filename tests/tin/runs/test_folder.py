"""The run folder: attempts, rows that are cut when a run goes on, settings that must not change."""

import json
import threading

import pytest

from configs.load import ConfigError, dump, load
from tin.runs.folder import STEPS, Run, describe_environment, resolve


def test_attempts_are_taken_once_each_even_at_the_same_time(tmp_path):
    runs = [Run(tmp_path) for _ in range(8)]
    threads = [threading.Thread(target=run.start_attempt) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run.attempt for run in runs) == list(range(1, 9))
    assert Run(tmp_path).attempts() == list(range(1, 9))


def test_rows_past_the_checkpoint_are_cut_with_a_half_written_one(tmp_path):
    run = Run(tmp_path)
    for step in (1, 2, 3, 4):
        run.append("steps.csv", STEPS, {"step": step, "loss": step / 3})
    with (tmp_path / "steps.csv").open("a") as file:
        file.write("0,5,17")
    run.cut("steps.csv", STEPS, before=3)
    lines = (tmp_path / "steps.csv").read_text().splitlines()
    assert lines[0] == ",".join(STEPS)
    assert [line.split(",")[1] for line in lines[1:]] == ["1", "2"]
    assert lines[2].split(",")[3] == "0.666667"


def test_what_has_changed_since_the_attempt_before_is_said(tmp_path, caplog):
    facts = describe_environment("cpu", 1) | {"commit": "a1", "auto": {"operator": "compiled"}}
    for auto in ({"operator": "compiled"}, {"operator": "compiled"}, {"operator": "plain PyTorch"}):
        run = Run(tmp_path)
        run.start_attempt()
        assert not caplog.text
        run.warn_of_changes({**facts, "auto": auto})
        run.write_environment({**facts, "auto": auto})
    assert "auto.operator: compiled -> plain PyTorch; clips, frames and crops" in caplog.text
    caplog.clear()
    run.start_attempt()
    run.warn_of_changes({**facts, "commit": "b2", "auto": {"operator": "plain PyTorch"}})
    assert "before: commit: a1 -> b2; clips" in caplog.text


def test_a_new_run_needs_a_recipe(tmp_path):
    with pytest.raises(ConfigError, match="is no run yet: name a recipe"):
        resolve(None, tmp_path, [])
    assert resolve("demo", tmp_path, ["train.seed=3"]).train.seed == 3


def test_a_run_goes_on_with_its_own_settings_only(tmp_path):
    (tmp_path / "config.yaml").write_text(dump(load("demo", ["train.seed=3"])))
    assert resolve(None, tmp_path, ["run.threads=1"]).run.threads == 1
    assert resolve("demo", tmp_path, ["train.seed=3"]).train.seed == 3
    with pytest.raises(ConfigError, match="other settings: train.seed: 3 -> 0; continue it"):
        resolve("demo", tmp_path, [])
    with pytest.raises(ConfigError, match="model.arch: resnet18 -> resnet50"):
        resolve(None, tmp_path, ["model.arch=resnet50"])


def test_done_names_the_stages_that_are_finished(tmp_path):
    run = Run(tmp_path)
    run.start_attempt()
    assert run.done() == {}
    run.finish("train")
    run.finish("test")
    assert list(run.done()) == ["train", "test"]


def test_the_environment_is_recorded(tmp_path):
    run = Run(tmp_path)
    run.start_attempt()
    run.write_environment(describe_environment("cpu", 2))
    facts = json.loads((tmp_path / "environment-01.json").read_text())
    assert facts["world_size"] == 2
    assert facts["versions"]["torch"].startswith("2.")

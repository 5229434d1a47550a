"""Run folders with garbage in them: each reader answers, or names the file."""

import json
import math
import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written_runs import write_run, write_test

from configs.errors import TinError
from launch.record import add_job, ends, jobs, last_row, progress, read_notes
from launch.status import RunStatus, statuses
from tin.evaluation.scores import ScoresError, load, load_result
from tin.reports.results import load_runs, write_report
from tin.runs import checkpoint
from tin.runs.best import measured
from tin.runs.folder import METRICS_COLUMNS, Run

fuzz = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)
SMALL_FILES = (
    "metrics.csv", "steps.csv", "config.yaml", "job/DONE", "job/jobs.jsonl", "job/ends/1-0.json",
    "job/notes/1-0-0.json", "job/executions.json", "environment-01.json", "environment-02.json",
    "tests/val-1x1-224/result.json",
)  # fmt: skip
JOB = '{"id": "1", "stage": "train", "executor": "local", "logs": "", "submitted": 1.5}'
pieces = st.sampled_from(
    [b"", b"\x00", b"\xff\xfe", b"nan", b"inf", b"-1", b"1e999", b"9" * 400, b"[", b"{}", b"null",
     b'"', b",", b"\n", b"\r", b"step", b"train", b"{\"id\": 3}", b"a: &a [*a]", b"true"]
)  # fmt: skip


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    run_dir = write_run(tmp_path_factory.mktemp("runs") / "intact")
    write_test(run_dir, "val-1x1-224", right=3)
    return run_dir


@fuzz
@given(
    name=st.sampled_from(SMALL_FILES),
    garbage=st.lists(pieces, max_size=6).map(b"".join) | st.binary(max_size=80),
    keep=st.integers(0, 400),
)
def test_a_damaged_run_hides_neither_itself_nor_another_run(
    tmp_path_factory, intact, name, garbage, keep
):
    run_dir = write_run(tmp_path_factory.mktemp("runs") / "damaged")
    write_test(run_dir, "val-1x1-224", right=3)
    path = run_dir / name
    path.parent.mkdir(exist_ok=True)
    old = path.read_bytes() if path.exists() else b""
    path.write_bytes(old[:keep] + garbage)
    found, _ = statuses([run_dir, intact])
    assert [status.run_dir for status in found] == [run_dir, intact]
    assert found[1].state == "done"
    table = load_runs([run_dir, intact])
    assert set(table["run"]) == {str(run_dir), str(intact)}
    row = table[table["run"] == str(intact)].iloc[0]
    assert (row["state"], row["top1"]) == ("done", 0.75)
    for column in ("top1", "gpu_hours"):
        values = table[column].dropna().tolist()
        assert all(math.isfinite(value) for value in values)


def test_the_status_of_a_damaged_run_names_the_file(intact, tmp_path):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "job" / "jobs.jsonl").write_text(JOB + "\nnonsense\n")
    (status, _), _ = statuses([run_dir, intact])
    assert isinstance(status, RunStatus)
    assert "jobs.jsonl, line 2" in status.why


@pytest.mark.parametrize("job_id", ["/etc/passwd", "1" + "../" * 70_000, "1\n2", "*"])
def test_a_number_of_a_job_that_is_no_part_of_a_file_name_is_named(intact, tmp_path, job_id):
    run_dir = write_run(tmp_path / "run")
    record = {**json.loads(JOB), "id": job_id}
    (run_dir / "job" / "jobs.jsonl").write_text(json.dumps(record) + "\n")
    # The message is one line, without the address of a page about pydantic.
    with pytest.raises(TinError, match=r"jobs\.jsonl, line 1: [^\n]*\(id: String should [^\n]*$"):
        jobs(run_dir)
    found, _ = statuses([run_dir, intact])
    assert [status.run_dir for status in found] == [run_dir, intact]


@pytest.mark.parametrize("text", ["NaN", '{"id": 3}', "[]", "", '{"id": "1", "restart": "x"}'])
def test_records_of_jobs_are_checked_and_named(tmp_path, text):
    for folder in ("ends", "notes"):
        (tmp_path / "job" / folder).mkdir(parents=True)
        (tmp_path / "job" / folder / "1-0-0.json").write_text(text)
    for read in (lambda: ends(tmp_path), lambda: read_notes(tmp_path, "1", 0)):
        with pytest.raises(TinError, match=r"1-0-0\.json"):
            read()
    (tmp_path / "job" / "jobs.jsonl").write_text(f"{text}\n" if text else "x\n")
    with pytest.raises(TinError, match=r"jobs\.jsonl, line 1"):
        jobs(tmp_path)


@pytest.mark.parametrize("name", ["attempt-xx", "attempt-02.bak", "attempt-", "attempt--4"])
def test_a_file_named_like_an_attempt_without_a_number_is_named(tmp_path, name):
    run = Run(tmp_path)
    run.start_attempt()
    (run.job / name).write_text("")
    with pytest.raises(TinError, match=f"{name}: expected a name such as attempt-03"):
        run.attempts()


@pytest.mark.parametrize("text", ["", "5", "[1]", "{", "\xff", '{"train": NaN}', '{"train": "x"}'])
def test_a_damaged_done_file_is_named(tmp_path, text):
    run = Run(tmp_path)
    run.start_attempt()
    (run.job / "DONE").write_bytes(text.encode("latin-1"))
    with pytest.raises(TinError, match="DONE: "):
        run.done()


def test_an_empty_config_is_not_a_run_with_default_settings(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ValueError, match=r"config\.yaml is empty, so the settings of the run are"):
        Run(tmp_path).config()


@fuzz
@given(garbage=st.lists(pieces, max_size=8).map(b"".join))
def test_garbage_in_a_csv_file_is_cut_when_a_run_resumes(tmp_path_factory, garbage):
    run = Run(tmp_path_factory.mktemp("run"))
    run.start_attempt()
    row = dict.fromkeys(METRICS_COLUMNS, 1)
    run.append("metrics.csv", METRICS_COLUMNS, row)
    with (run.path / "metrics.csv").open("ab") as file:
        file.write(b"\n" + garbage)
    run.cut("metrics.csv", METRICS_COLUMNS, 5)
    lines = (run.path / "metrics.csv").read_text().splitlines()
    assert lines[0] == ",".join(METRICS_COLUMNS) and lines[1] == ",".join("1" * len(row))
    assert last_row(run.path / "metrics.csv")["step"].isdigit()


@fuzz
@given(position=st.floats(0, 1), flips=st.binary(min_size=1, max_size=20), cut=st.booleans())
def test_fuzzed_checkpoints_and_scores_are_read_or_named(intact, tmp_path, position, flips, cut):
    state = {"format": 1, "model": {"w": torch.ones(3)}, "epoch": 1, "best": 0.5}
    torch.save(state, tmp_path / "one.pt")
    scores = intact / "tests" / "val-1x1-224" / "scores.npz"
    for source, name in ((tmp_path / "one.pt", "damaged.pt"), (scores, "scores.npz")):
        data = bytearray(source.read_bytes())
        at = int(position * (len(data) - 1))
        data[at : at + len(flips)] = flips
        (tmp_path / name).write_bytes(data[: at + 1] if cut else data)
    try:
        assert checkpoint.load(tmp_path / "damaged.pt")["epoch"] == 1
    except checkpoint.CheckpointError as error:
        assert "damaged.pt" in str(error)
    try:
        assert load(tmp_path).keys == load(scores.parent).keys
    except ScoresError as error:
        assert "scores.npz" in str(error)


def test_a_job_is_read_back_as_it_was_written(tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "jobs.jsonl").write_text(JOB + "\n")
    (job,) = jobs(tmp_path)
    add_job(tmp_path, job)
    assert jobs(tmp_path) == [job]  # a job that is recorded twice is one job
    assert json.loads(JOB)["id"] == job.id


def test_a_result_that_is_a_link_is_not_read(tmp_path):
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "result.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ScoresError, match=r"result\.json: cannot be read"):
        load_result(tmp_path)


@pytest.mark.parametrize("step", ["nan", "-1", "x", "\u00b2", "9" * 30])
def test_a_damaged_step_does_not_prevent_a_requeue(tmp_path, step):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000007-a01.pt").touch()
    (tmp_path / "checkpoints" / "step-\u00b2.pt").touch()
    (tmp_path / "steps.csv").write_text(f"epoch,step\n0,{step}\n")
    assert progress(tmp_path) == 7


def test_an_environment_that_is_nested_deeply_does_not_end_the_report(intact, tmp_path):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "environment-01.json").write_text("[" * 100_000)
    table = load_runs([run_dir, intact])
    assert table["state"].tolist() == ["done", "done"]


@pytest.mark.parametrize("column", ["top1", "split", "map_class"])
def test_a_damaged_name_of_a_column_does_not_end_the_status(intact, tmp_path, column):
    run_dir = write_run(tmp_path / "run")
    path = run_dir / "metrics.csv"
    path.write_text(path.read_text().replace(column, "x", 1))
    found, _ = statuses([run_dir, intact])
    assert [status.state for status in found] == ["done", "done"]
    assert found[1].best == "75.0 %"


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "x"])
def test_numbers_that_are_not_finite_are_not_shown(tmp_path, text):
    run_dir = write_run(tmp_path / "run")
    path = run_dir / "metrics.csv"
    path.write_text(path.read_text().replace("0.5,0.5", f"{text},{text}"))
    path = run_dir / "steps.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, f"2,30,{text},2.0,0.01,{text},{text},,,,0"]) + "\n")
    ((status,), _) = statuses([run_dir])
    assert (status.metric, status.best) == ("", "75.0 %")
    assert (status.clips_per_s, status.data_wait) == ("0.0", "0.0 %")


@pytest.mark.parametrize(
    "name", [b"val-1x1-\xff", b"val-1x1-" + b"9" * 30, "val-1x1-\u0663".encode(), b"a\nb"]
)
def test_a_strange_name_of_a_test_does_not_end_the_report(intact, tmp_path, name, caplog):
    run_dir = write_run(tmp_path / "run")
    folder = write_test(run_dir, "val-1x1-224", right=3)
    folder.rename(folder.with_name(os.fsdecode(name)))
    table = load_runs([run_dir, intact])
    assert table["run"].tolist() == [str(run_dir), str(intact)]
    write_report(table, tmp_path / "report")
    # A name that cannot be shown is named once.
    is_shown = os.fsdecode(name).isprintable()
    assert caplog.text.count("left out") == (0 if is_shown else 1)


def test_a_setting_that_no_table_can_hold_does_not_end_the_report(intact, tmp_path):
    run_dir = write_run(tmp_path / "run", f"train.seed={10**30}")
    table = load_runs([run_dir, intact])
    assert table["state"].tolist()[0].startswith(f"broken: seed is {10**30}")


def test_a_name_that_is_not_utf8_does_not_end_the_report(intact, tmp_path, caplog):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "job" / os.fsdecode(b"attempt-\xff")).mkdir(parents=True)
    unnamed = write_run(tmp_path / os.fsdecode(b"run-\xff"))
    table = load_runs([run_dir, unnamed, intact])
    assert table["run"].tolist()[0::2] == [str(run_dir), str(intact)]
    assert "attempt-\\udcff" in table["state"][0]
    write_report(table, tmp_path / "report")
    table = load_runs([tmp_path])  # a run that was found, and not named by a user
    assert table["run"].tolist() == [str(run_dir)]
    assert "run-\\udcff" in caplog.text


def test_an_infinite_step_does_not_end_the_report(intact, tmp_path):
    run_dir = write_run(tmp_path / "run")
    path = run_dir / "steps.csv"
    path.write_text(path.read_text().replace("\n0,6,", "\n0,1e999,"))
    assert "1e999" in path.read_text()
    write_report(load_runs([run_dir, intact]), tmp_path / "report", [run_dir])


def test_a_size_that_is_no_integer_does_not_end_the_report(intact, tmp_path):
    run_dir = write_run(tmp_path / "run")
    folder = write_test(run_dir, "val-1x1-224", right=3)
    path = folder / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "params": 0.5}))
    table = load_runs([run_dir, intact])
    assert table["state"].tolist()[0].startswith("broken: params is 0.5")


def test_a_huge_field_in_metrics_is_no_evaluation(tmp_path):
    run_dir = write_run(tmp_path / "run")
    with (run_dir / "metrics.csv").open("a") as file:
        file.write("9" * 200_000 + "\n")
    assert measured(Run(run_dir)) == []

"""What follows a job that failed or was stopped: the reason, the node to blame, the requeue."""

import os
import signal
from pathlib import Path

import pytest
from slurm_messages import (
    LOST_WITHOUT_NAME,
    NODE_LOST,
    OUT_OF_MEMORY,
    OVER_MEMORY,
    REQUEUED,
)

from launch.errors import ASK
from launch.jobs import requeue
from launch.jobs.give_up import limited
from launch.jobs.job import LOGS, StageJob
from launch.jobs.requeue import judge
from launch.jobs.srun_log import (
    Message,
    cancel_reason,
    is_out_of_memory,
    last_start,
    lost_nodes,
    rank_messages,
    start_before,
    used_nodes,
)
from launch.record import End, Note, NoteKind, Outcome, ends, write_note
from launch.submission.sbatch import new_task_files

LOG = """\
=== job 7, start 0, node[1-2]
srun: error: Node failure on node2
=== job 7, start 1, node[1-3]
12:00:01 epoch 0 step 1: loss 2
srun: error: node1: tasks 0-1: Killed
srun: launch/slurm: _step_signal: Terminating StepId=7.0
srun: error: node3: task 4: Exited with exit code 1
"""

USR2 = "User defined signal 2"
EARLY = "stopped by a signal before the stage began: "
KILLED = "rank 1 on node1: Killed"


def message(rank: int, reason: str = "Killed") -> Message:
    return Message(f"node{rank}", frozenset({rank}), reason)


def note(
    kind: NoteKind, rank: int, text: str = "because", signal: str = "", time: float = 0.0
) -> Note:
    return Note(kind, text, rank, f"node{rank}", signal, time)


def test_messages_of_srun_are_read_from_the_last_start(tmp_path: Path):
    log = tmp_path / "7_0_log.err"
    log.write_text(LOG)
    assert rank_messages(last_start(log)) == [
        Message("node1", frozenset({0, 1}), "Killed"),
        Message("node3", frozenset({4}), "Exited with exit code 1"),
    ]
    assert lost_nodes(start_before(log)) == ["node2"]
    assert last_start(tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("notes", "messages", "want"),
    [
        ([note("stopped", 0), note("stopped", 1)], [message(0)], ("stopped", "because", [])),
        # rank 1 died first and left no note: its node is to blame, whatever the others wrote
        ([note("failed", 0)], [message(1), message(0)], ("failed", KILLED, ["node1"])),
        # rank 1 failed first; rank 0 got SIGTERM only because of that
        ([note("stopped", 0), note("failed", 1)], [message(1)], ("failed", "node1: because", [])),
        ([note("refused", 1), note("failed", 0)], [message(0)], ("gave up", "because", [])),
        ([note("node", 1), note("failed", 0)], [message(0)], ("failed", "because", ["node1"])),
        ([], [], ("failed", "srun failed, and no rank left a note", [])),
        # rank 1 lost its connection because rank 0 had left for the signal
        (
            [note("stopped", 0, signal="SIGUSR2", time=2), note("failed", 1, time=1)],
            [message(1)],
            ("stopped", "because", []),
        ),
        (
            [note("stopped", 0, signal="SIGTERM", time=1), note("failed", 1, time=2)],
            [message(1)],
            ("stopped", "because", []),
        ),
        # rank 1 failed first, and srun ended rank 0 for it
        (
            [note("stopped", 0, signal="SIGTERM", time=2), note("failed", 1, time=1)],
            [message(1)],
            ("failed", "node1: because", []),
        ),
        # signals that came before the ranks could handle them, or on a full disk
        ([], [message(0, USR2)], ("stopped", EARLY + USR2, [])),
        ([], [message(0, "Terminated")], ("stopped", EARLY + "Terminated", [])),
        (
            [],
            [message(0, "Exited with exit code 75")],
            ("stopped", EARLY + "Exited with exit code 75", []),
        ),
        # a process that exits by itself does not blame its node
        (
            [],
            [message(1, "Exited with exit code 1")],
            ("failed", "rank 1 on node1: Exited with exit code 1", []),
        ),
    ],
)  # fmt: skip
def test_the_rank_that_ended_first_knows_the_reason(
    notes: list[Note], messages: list[Message], want: tuple[str, str, list[str]]
):
    assert judge(notes, messages, []) == want


@pytest.mark.parametrize("text", [*OUT_OF_MEMORY.values(), *OVER_MEMORY.values()])
def test_a_job_without_enough_memory_blames_no_node(text: str):
    assert is_out_of_memory(text)
    verdict = judge([], [message(1)], [], out_of_memory=True)
    assert (verdict.kind, verdict.nodes) == ("failed", [])
    assert "raise mem_gb" in verdict.text


def test_what_a_rank_prints_is_not_taken_for_a_message_of_slurm():
    assert not is_out_of_memory("12:00:01 epoch 0: Out Of Memory\noom_kill event\n")
    assert not lost_nodes("echo srun: error: Node failure on node4\n")


def test_a_lost_node_is_read_from_the_log_of_both_versions():
    assert [lost_nodes(text) for text in NODE_LOST.values()] == [["node4"]] * 2
    assert [lost_nodes(text) for text in LOST_WITHOUT_NAME.values()] == [[]]
    texts = [*NODE_LOST.values(), *LOST_WITHOUT_NAME.values()]
    assert [cancel_reason(text) for text in texts] == ["NODE FAILURE"] * 3
    assert [cancel_reason(text) for text in REQUEUED.values()] == ["JOB REQUEUE"] * 2
    assert used_nodes("7, start 0, node[1-2]\nmore, words, here\n") == "node[1-2]"


def test_a_hang_is_blamed_on_the_nodes_that_did_not_notice_it_in_time(tmp_path: Path):
    stacks = [tmp_path / f"stacks-01-rank{rank}.txt" for rank in (0, 2)]
    for file, seconds in zip(stacks, (100, 106), strict=True):
        file.touch()
        os.utime(file, (seconds, seconds))
    verdict = judge([], [message(rank) for rank in (0, 1, 2)], stacks)
    assert verdict.kind == "failed"
    assert verdict.nodes == ["node1", "node2"]  # rank 1 wrote no stacks, rank 2 wrote them late
    assert "node1, node2 did not answer" in verdict.text


def end(kind: Outcome, step: int) -> End:
    return End("7", 0, "train", kind, step, "rank 1 on node2: Killed", ["node2"])


def test_a_run_is_given_up_after_three_failures_with_no_step_between():
    assert limited(end("failed", 5), [end("failed", 5)], 20).kind == "failed"
    over = limited(end("failed", 5), [end("failed", 5), end("lost", 5)], 20)
    assert over.kind == "gave up"
    assert over.text == "3 failures with no step between: rank 1 on node2: Killed"


def limit(step: int) -> End:
    return End("7", 0, "test", "stopped", step, "stopped by SIGUSR2", at_limit=True)


def test_a_stage_that_is_longer_than_its_time_limit_is_given_up():
    assert limited(limit(5), [limit(5)], 20).kind == "stopped"
    over = limited(limit(5), [limit(5), limit(5)], 20)
    assert over.kind == "gave up"
    assert over.text.startswith("the time limit came 3 times with no step between: raise time_min")


def test_a_stop_by_the_time_limit_is_no_failure_as_long_as_there_are_steps():
    before = [limit(step) for step in range(60)]
    assert limited(limit(60), before, 20).kind == "stopped"


def test_preemption_never_counts_towards_giving_up():
    preempted = End("7", 0, "test", "stopped", 5, "stopped by SIGUSR2")
    assert limited(preempted, [preempted] * 50, 20).kind == "stopped"
    assert limited(limit(5), [limit(5), preempted, limit(5)], 20).kind == "stopped"


@pytest.mark.parametrize("before", [["failed", "stopped"], ["failed", "done"], ["gave up", "lost"]])
def test_another_end_between_failures_restarts_the_count(before: list[Outcome]):
    assert limited(end("failed", 5), [end(kind, 5) for kind in before], 20).kind == "failed"


def test_failures_of_the_whole_run_are_counted_but_stops_are_not():
    steps = [end("failed", step) for step in range(3)] + [end("stopped", 9)] * 30
    assert limited(end("failed", 10), steps, 4).kind == "failed"
    over = limited(end("failed", 10), steps, 3)
    assert over.text.startswith("4 failures, and run.max_restarts is 3")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Set up the batch script of job 7; return the path of its files."""
    tasks = new_task_files(tmp_path / "job" / "logs", [StageJob("train", str(tmp_path))])
    (tmp_path / "job/cluster.yaml").write_text("{time_min: 60, signal_s: 120}")
    (tmp_path / "job/recipe.yaml").write_text("{}")
    for name, value in {
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_JOB_ID": "7",
        LOGS: str(tmp_path / "job" / "logs"),
        "PATH": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return tasks


def test_without_slurm_commands_the_batch_script_is_asked_to_requeue(job: str, tmp_path: Path):
    write_note(tmp_path, "7", 0, note("failed", 1))
    assert requeue.main(job, "1", "10") == ASK
    assert [(end.kind, end.text) for end in ends(tmp_path)] == [("failed", "node1: because")]


@pytest.mark.parametrize(("seconds", "at_limit"), [("3300", False), ("3420", True)])
def test_a_stop_near_the_end_of_the_time_limit_is_one_by_the_time_limit(
    seconds: str, at_limit: bool, job: str, tmp_path: Path
):
    write_note(tmp_path, "7", 0, note("stopped", 0, signal="SIGUSR2"))
    assert requeue.main(job, "75", seconds) == ASK
    assert [(end.kind, end.at_limit) for end in ends(tmp_path)] == [("stopped", at_limit)]


def test_a_job_whose_end_cannot_be_recorded_is_requeued(
    job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "job" / "ends").touch()  # no file can be written into a file
    assert requeue.main(job, "1", "10") == ASK
    assert "the end could not be recorded" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_RESTART_COUNT", "20")
    assert requeue.main(job, "1", "10") == 1  # not for ever


BUSY_ONCE = """\
#!/bin/sh
echo "$@" >> {log}
[ $(wc -l < {log}) -gt 1 ] && exit 0
echo "slurm_requeue error: Unable to contact slurm controller (connect failure)" >&2
exit 1
"""


@pytest.mark.parametrize(
    ("words", "calls", "code"), [("contact", 3, 75), ("Requested operation is disabled", 1, 0)]
)
def test_a_requeue_is_repeated_while_slurm_is_busy_but_not_if_it_is_forbidden(
    words: str,
    calls: int,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    log = tmp_path / "calls"
    text = BUSY_ONCE.format(log=log).replace("Unable to contact", words)
    text = text if code else text.replace(" (connect failure)", "")
    for name, script in {"scontrol": text, "squeue": "#!/bin/sh\necho RUNNING\n"}.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(requeue, "PAUSE_S", 0.0)
    assert requeue._requeue(end("failed", 3), "node2") == code
    # requeue, requeue again and update; or one requeue that is forbidden
    assert len(log.read_text().splitlines()) == calls
    assert ("chain:4" in capsys.readouterr().err) == (code == 0)

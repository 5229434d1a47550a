"""The watchdog: a rank that hangs saves the stacks of its threads and exits."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tin.ranks import watchdog

HANG = """
import sys, time
from pathlib import Path
from tin.ranks import watchdog
watchdog.FIRST_STEP_S = 3.0
watchdog.GRACE_S = 0.1
def hang_forever():
    while True:
        time.sleep(0.01)
with watchdog.Watchdog(Path(sys.argv[1]), attempt=3, rank=1, minutes=2 / 60) as dog:
    for _ in range(20):  # steps within the limit
        time.sleep(0.05)
        dog.beat()
    hang_forever()
"""


def test_a_rank_that_hangs_saves_its_stacks_and_exits(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", HANG, str(tmp_path)], timeout=60)
    assert done.returncode == watchdog.HUNG
    text = (tmp_path / "stacks-03-rank1.txt").read_text()
    assert re.search(r"no step for ([2-9]|\d\d+) s", text)  # 2 s, or more on a busy machine
    assert "hang_forever" in text


STEPS_OF_TWO_SECONDS = """
import sys, time
from pathlib import Path
from tin.ranks import watchdog
watchdog.FIRST_STEP_S = 60.0
with watchdog.Watchdog(Path(sys.argv[1]), attempt=1, rank=0, minutes=10 / 60) as dog:
    for number in range(4):
        for _ in range(20):
            time.sleep(0.1)
        dog.beat()
        print(number, flush=True)
"""


def test_a_process_that_was_stopped_does_not_hang(tmp_path: Path):
    command = [sys.executable, "-c", STEPS_OF_TWO_SECONDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        time.sleep(15)  # longer than the limit of 10 s
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == 0


def test_a_hang_after_a_stop_is_found_as_soon_as_any_other(tmp_path: Path, monkeypatch):
    """The first step after a stop of 1000 s ends before the watchdog looks; then the rank hangs."""
    now = 0.0
    looks = 0
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: now))
    dog = watchdog.Watchdog(tmp_path, attempt=1, rank=1, minutes=10 / 60)
    dog.beat()

    def wait(interval_s: float) -> bool:
        nonlocal now, looks
        looks += 1
        now += 1000.0 if looks == 3 else interval_s
        if looks == 3:
            dog.beat()
        return False

    monkeypatch.setattr(dog._stopped, "wait", wait)
    monkeypatch.setattr(dog, "_exit", lambda: exit_at(looks))
    with pytest.raises(StopIteration, match=r"^1[34]$"):  # 10 s are ten looks
        dog._watch()


def exit_at(looks: int) -> None:
    raise StopIteration(looks)


@pytest.mark.parametrize("minutes", [0.01, 0.0])
def test_steps_of_rank_0_renew_the_heartbeat(tmp_path: Path, monkeypatch, minutes):
    monkeypatch.setattr(watchdog, "HEARTBEAT_S", 0.0)
    monkeypatch.setattr(watchdog, "CHECK_S", 0.02)
    file = tmp_path / "attempt-03"
    for rank, beats, is_renewed in ((0, True, True), (0, False, False), (1, True, False)):
        file.touch()
        os.utime(file, (1e9, 1e9))
        with watchdog.Watchdog(tmp_path, attempt=3, rank=rank, minutes=minutes) as dog:
            for _ in range(10):
                time.sleep(0.02)
                if beats:
                    dog.beat()
        assert (file.stat().st_mtime > 1e9) == is_renewed, (rank, beats)

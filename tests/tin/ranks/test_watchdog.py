"""The watchdog: a rank that hangs leaves the stacks of its threads and ends."""

import re
import subprocess
import sys
from pathlib import Path

from tin.ranks import watchdog

HANG = """
import sys, time
from pathlib import Path
from tin.ranks import watchdog
watchdog.FIRST_STEP_S, watchdog.GRACE_S = 3.0, 0.1
def waits_for_ever():
    while True:
        time.sleep(0.01)
with watchdog.Watchdog(Path(sys.argv[1]), attempt=3, rank=1, minutes=2 / 60) as dog:
    for _ in range(20):  # steps in time: nothing happens
        time.sleep(0.05)
        dog.beat()
    waits_for_ever()
"""


def test_a_hang_ends_the_rank_with_its_stacks(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", HANG, str(tmp_path)], timeout=60)
    assert done.returncode == watchdog.HUNG
    text = (tmp_path / "stacks-03-rank1.txt").read_text()
    assert re.search(r"no step for ([2-9]|\d\d+) s", text)  # 2 s and what a busy machine adds
    assert "waits_for_ever" in text

"""The watchdog: a rank that hangs saves the stacks of its threads and exits."""

import re
import subprocess
import sys
from pathlib import Path

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

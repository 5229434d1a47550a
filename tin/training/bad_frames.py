"""Damaged frames of a training run: rows of bad_frames.csv, and the limit of an epoch."""

import logging

from pipeline.batches import BadDataError
from pipeline.loader import ClipLoader
from tin.runs.folder import BAD_FRAMES, Run

log = logging.getLogger(__name__)
FILE = "bad_frames.csv"


def start_file(run: Run) -> None:
    """Write the header of bad_frames.csv if the run has no such file yet."""
    if not (run.path / FILE).exists():
        run.write(FILE, ",".join(BAD_FRAMES) + "\n")


def record(loader: ClipLoader, run: Run, epoch: int) -> int:
    """Add the damaged frames that this rank found since the last call; return their number.

    Every rank writes its own rows: a row is appended in one write.
    """
    frames = loader.take_bad_frames()
    keys = loader.split.keys() if frames else []
    for bad in frames:
        row = {"epoch": epoch, "key": keys[bad.clip], "frame": bad.frame, "reason": bad.reason}
        run.append(FILE, BAD_FRAMES, row)
    return len(frames)


def check_limit(num_bad_frames: int, limit: int, run: Run, epoch: int) -> None:
    """Check the number of damaged frames that all ranks found in an epoch.

    Raises:
        BadDataError: there are more than `limit`.
    """
    if num_bad_frames > limit:
        raise BadDataError(
            f"epoch {epoch + 1} met {num_bad_frames} damaged frames, but the limit is {limit}"
            f" (see data.bad_frames); {run.path / FILE} lists them,"
            " and `tin data verify` checks the whole dataset"
        )


def log_epoch(epoch: int, num_bad_frames: int, run: Run) -> None:
    """Log how many frames of an epoch were replaced by intact frames of their videos."""
    if num_bad_frames:
        path = run.path / FILE
        log.warning(
            "epoch %d: %d damaged frames were replaced; %s lists them",
            epoch + 1,
            num_bad_frames,
            path,
        )
    else:
        log.info("epoch %d: no damaged frames", epoch + 1)

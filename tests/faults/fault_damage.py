"""Damage to files that a reader must notice: of datasets, of runs, and of test results."""

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fault_table import Kind, Outcome, judge
from synthetic_dataset import write_dataset
from untrained_run import write_run as write_model
from written_runs import write_run, write_test

from launch.record import End, SubmittedJob, add_end, add_job
from launch.status import statuses
from pipeline.store import FrameStore
from preprocess.integrity import check_dataset
from preprocess.shard_rows import read_rows
from preprocess.shards import open_split, read_info
from preprocess.tars import ShardError
from preprocess.verify import _check_tables, check_shard
from tin.evaluation.scores import load as load_scores
from tin.evaluation.scores import load_result
from tin.reports.results import load_runs
from tin.runs import checkpoint
from tin.runs.best import find_best
from tin.runs.folder import Run
from tin.runs.restore import config_of

PAGE_BYTES = 4096
Damage = Callable[[Path, random.Random], None]


def truncate(path: Path, draws: random.Random) -> None:
    """Cut a file at a random byte."""
    os.truncate(path, draws.randrange(path.stat().st_size))


def delete(path: Path, _: random.Random) -> None:
    """Remove a file."""
    path.unlink()


def fill_with_garbage(path: Path, draws: random.Random) -> None:
    """Replace the content by random bytes."""
    path.write_bytes(draws.randbytes(path.stat().st_size))


def overwrite(path: Path, draws: random.Random) -> None:
    """Write some random bytes into a file."""
    data = bytearray(path.read_bytes())
    start = draws.randrange(len(data))
    data[start : start + 16] = draws.randbytes(min(16, len(data) - start))
    path.write_bytes(data)


def flip_bit(path: Path, draws: random.Random) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
    path.write_bytes(data)


def clear_page(path: Path, draws: random.Random) -> None:
    """Fill a page of a file with zeros, as a lost write of a block does."""
    data = bytearray(path.read_bytes())
    start = draws.randrange(len(data)) // PAGE_BYTES * PAGE_BYTES
    end = min(start + PAGE_BYTES, len(data))
    if not any(data[start:end]):
        start, end = 0, min(PAGE_BYTES, len(data))
    data[start:end] = bytes(end - start)
    path.write_bytes(data)


def extend(path: Path, draws: random.Random) -> None:
    """Append random bytes."""
    with path.open("ab") as file:
        file.write(draws.randbytes(draws.randrange(1, 2000)))


def make_fifo(path: Path, _: random.Random) -> None:
    """Put a FIFO in place of a file; a reader that opens it would wait forever."""
    path.unlink()
    os.mkfifo(path)


@dataclass(frozen=True)
class Subject:
    """Files and a reader that must return their content or name what is wrong."""

    name: str
    write: Callable[[Path], object]
    """Writes the files into an empty folder."""
    read: Callable[[Path], str]
    """Returns a digest of the content."""
    files: tuple[str, ...]
    """Patterns of the files that are damaged."""
    may_fall_back: bool = False
    """Whether the reader may use the checkpoint before it instead."""


def _write_dataset(folder: Path) -> None:
    write_dataset(folder / "data", [3, 1, 4, 2, 5, 3], per_shard=2)


def _read_dataset(folder: Path) -> str:
    """Return keys, labels and frames as training reads them, after the checks that it makes.

    Raises:
        ShardError: a check failed, or a frame is damaged, which training counts and names.
    """
    check_dataset(folder / "data", ["train"])
    split = open_split(folder / "data", "train")
    store = FrameStore(split, readers=1)
    content = [split.keys(), split.labels.tolist()]
    try:
        for video, row in enumerate(split.videos):
            found = store.read(video, range(int(row["num_frames"])))
            if found.bad_frames:
                name = split.shard_path(int(split.frames["shard"][row["first_frame"]])).name
                raise ShardError(f"{name}: {found.bad_frames[0].reason}")
            content.append([jpeg.tobytes() for jpeg in found.jpegs])
    finally:
        store.close()
    return str(hash(str(content)))


def _read_records(folder: Path) -> str:
    """Return the rows of tables that the records give, after the checks of `tin data verify`."""
    data = folder / "data"
    info = read_info(data)
    classes = {name: index for index, name in enumerate(info.classes)}
    problems = [text for shard in range(3) for text in check_shard(data, "train", shard, str)[1]]
    problems += _check_tables(open_split(data, "train"), info, range(3))
    if problems:
        raise ShardError("\n".join(problems))
    return str([read_rows(data, "train", shard, classes).csv_rows for shard in range(3)])


def _write_checkpoints(folder: Path) -> None:
    run = Run(folder)
    run.start_attempt()
    for step in (1, 2):
        torch.manual_seed(step)
        weights = {name: torch.randn(20, 30) for name in "ab"}
        checkpoint.save(run, {"global_step": step, "model": weights, "sums": [0.5]})


def _weights(state: dict) -> str:
    return str([(name, tensor.tolist()) for name, tensor in state["model"].items()])


def _read_newest(folder: Path) -> str:
    state = checkpoint.load_newest(Run(folder))
    assert state is not None
    return f"{state['global_step']} {_weights(state)}"


def _older(folder: Path) -> str:
    """Return what a reader finds if the newest checkpoint is not there."""
    return _weights(checkpoint.load(folder / "checkpoints" / "step-00000001-a01.pt"))


def _write_best(folder: Path) -> None:
    _write_checkpoints(folder)
    (folder / "config.yaml").write_text("train: {epochs: 3}\n")
    newest = checkpoint.newest(Run(folder))
    assert newest
    shutil.copy(newest, folder / "checkpoints" / "best.pt")


def _read_best(folder: Path) -> str:
    return _weights(checkpoint.load(find_best(Run(folder))))


def _read_scores(folder: Path) -> str:
    scores = load_scores(folder / "tests" / "t")
    return str([scores.keys, scores.labels.tolist(), scores.scores.tolist(), scores.classes])


DATASET = Subject("dataset", _write_dataset, _read_dataset, ("data/train.*", "data/dataset.yaml"))
FRAMES = Subject("shards", _write_dataset, _read_dataset, ("data/*.tar",))
RECORDS = Subject("records", _write_dataset, _read_records, ("data/*.tar",))
CHECKPOINT = Subject(
    "checkpoint", _write_checkpoints, _read_newest, ("checkpoints/step-00000002*",), True
)
BEST = Subject("best.pt", _write_best, _read_best, ("checkpoints/best.pt",))
SCORES = Subject(
    "scores", lambda folder: write_test(folder, "t", right=3), _read_scores, ("tests/t/scores.npz",)
)
SUBJECTS = (DATASET, FRAMES, RECORDS, CHECKPOINT, BEST, SCORES)
TEXTS = (
    "metrics.csv", "steps.csv", "config.yaml", "job/DONE", "job/attempt-01", "job/jobs.jsonl",
    "job/ends/1-0.json", "environment-01.json", "tests/t/result.json", "tests/t/scores.npz",
    "tests/t/predictions.csv",
)  # fmt: skip
"""Files of a run that status and report read."""
BAD_NUMBERS = (b"nan", b"NaN", b"inf", b"-inf", b"1e999", b"Infinity", b"-1", b"null")


def damages(
    damage: Damage, subjects: Sequence[Subject], folder: Path, draws: random.Random, count: int
) -> Iterator[Outcome]:
    """Damage the files of each subject `count` times, one at a time."""
    for subject in subjects:
        home = folder / subject.name
        home.mkdir()
        subject.write(home)
        intact = subject.read(home)
        older = f"1 {_older(home)}" if subject.may_fall_back else intact
        paths = sorted(path for pattern in subject.files for path in home.glob(pattern))
        for _ in range(count):
            path = draws.choice(paths)
            kept = home.parent / "kept"
            shutil.copy2(path, kept)
            damage(path, draws)
            names = (path.name, path.stem) if path.name.startswith("train.") else (path.name,)
            found = judge(partial(subject.read, home), [intact, "", older], *names)
            path.unlink(missing_ok=True)
            shutil.move(kept, path)
            yield found._replace(problem=found.problem and f"{subject.name}: {found.problem}")


def flips(subject: Subject, folder: Path, draws: random.Random, count: int) -> Iterator[Outcome]:
    """Flip single bits of the files of one subject."""
    return damages(flip_bit, [subject], folder, draws, count)


def damaged_runs(
    damage: Damage, folder: Path, draws: random.Random, count: int
) -> Iterator[Outcome]:
    """Damage each small file of a run; status and report must still show the other run."""
    intact = _write_small_files(folder / "intact")
    expected = _shown(intact, intact)
    for number in range(count):
        for name in TEXTS:
            run_dir = _write_small_files(folder / f"damaged-{number}")
            damage(run_dir / name, draws)
            found = judge(partial(_shown, run_dir, intact), [expected])
            shutil.rmtree(run_dir)
            noticed = "the other run is shown" if not found.problem else found.noticed
            yield Outcome(noticed, found.problem and f"{name}: {found.problem}")


def write_bad_number(path: Path, draws: random.Random) -> None:
    """Replace a number in a text by NaN, infinity or a negative number."""
    data = path.read_bytes()
    places = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    start = draws.choice(places or [0])
    end = start
    while end < len(data) and chr(data[end]) in "0123456789.":
        end += 1
    path.write_bytes(data[:start] + draws.choice(BAD_NUMBERS) + data[end:])


def bad_weights(folder: Path, draws: random.Random, count: int) -> Iterator[Outcome]:
    """Store a weight that is NaN or infinite in a checkpoint, with a right CRC."""
    _write_checkpoints(folder)
    path = checkpoint.newest(Run(folder))
    assert path
    older = f"1 {_older(folder)}"
    state = checkpoint.load(path)
    for _ in range(count):
        name = draws.choice("ab")
        weights = {key: tensor.clone() for key, tensor in state["model"].items()}
        weights[name].view(-1)[draws.randrange(600)] = float(draws.choice(["nan", "inf", "-inf"]))
        torch.save({**state, "model": weights}, path)
        yield judge(partial(_read_newest, folder), ["", "", older])


def bad_scores(folder: Path, draws: random.Random, count: int) -> Iterator[Outcome]:
    """Store a score that is NaN or infinite, with a right CRC."""
    path = write_test(folder, "t", right=3) / "scores.npz"
    with np.load(path) as file:
        arrays = dict(file)
    for _ in range(count):
        scores = arrays["scores"].copy()
        scores.flat[draws.randrange(scores.size)] = float(draws.choice(["nan", "inf", "-inf"]))
        np.savez(path, **{**arrays, "scores": scores})
        yield judge(partial(_read_scores, folder), [""], "scores.npz")


def stale_tables(folder: Path, draws: random.Random, count: int) -> Iterator[Outcome]:
    """Put a table of another dataset of the same size in place of one."""
    _write_dataset(folder)
    other = folder / "other"
    write_dataset(other / "data", [3, 1, 4, 2, 5, 3], per_shard=2, labels=(("right",), ("left",)))
    intact = _read_dataset(folder)
    names = [path.name for path in sorted((folder / "data").glob("train.*"))]
    for _ in range(count):
        path = folder / "data" / draws.choice(names)
        kept = path.read_bytes()
        path.write_bytes((other / "data" / path.name).read_bytes())
        yield judge(partial(_read_dataset, folder), [intact, ""], path.name)
        path.write_bytes(kept)


def changed_settings(folder: Path, draws: random.Random, count: int) -> Iterator[Outcome]:
    """Change a number in config.yaml; a run that resumes compares it with its checkpoint."""
    from configs.load import ConfigError, differences

    write_dataset(folder / "data", [3, 3], labels=(("left",), ("right",)))
    run_dir = write_model(folder / "run", folder / "data")
    config = config_of(checkpoint.load(run_dir / "checkpoints" / "best.pt"))
    path = run_dir / "config.yaml"
    intact = path.read_bytes()

    def resume() -> str:
        different = differences(config, Run(run_dir).config())
        if different:
            raise ConfigError(f"config.yaml: {different}")
        return "same settings"

    for _ in range(count):
        flip_bit(path, draws)
        yield judge(resume, ["same settings", ""], "config.yaml")
        path.write_bytes(intact)


def _write_small_files(run_dir: Path) -> Path:
    write_run(run_dir)
    write_test(run_dir, "t", right=3)
    add_job(run_dir, SubmittedJob("1", "train", "local", "logs", submitted=1.5))
    add_end(run_dir, End("1", 0, "train", "done", time=2.5))
    return run_dir


def _shown(run_dir: Path, other: Path) -> str:
    """Return what status and report show of another run while they show a damaged one."""
    found, _ = statuses([run_dir, other])
    table = load_runs([run_dir, other])
    rows = table[table["run"] == str(other)]
    assert [status.run_dir for status in found] == [run_dir, other]
    load_result(other / "tests" / "t")
    return f"{found[1].state} {rows['top1'].tolist()} {rows['state'].tolist()}"


def damage_kinds() -> list[Kind]:
    """Return all kinds of damage to files."""
    ways: dict[str, Damage] = {
        "truncated": truncate,
        "deleted": delete,
        "filled with garbage": fill_with_garbage,
        "16 bytes overwritten": overwrite,
        "page of zeros": clear_page,
        "extended": extend,
        "replaced by a FIFO": make_fifo,
    }
    kinds = [
        Kind(f"large file {name}", partial(damages, way, SUBJECTS), 1, 25)
        for name, way in ways.items()
    ]
    kinds += [
        Kind(f"small file of a run {name}", partial(damaged_runs, way), 1, 3)
        for name, way in {**ways, "with NaN or infinity": write_bad_number}.items()
    ]
    names = {
        "a table": DATASET, "a frame or its shard": FRAMES, "a record of a shard": RECORDS,
        "a checkpoint": CHECKPOINT, "best.pt": BEST, "scores.npz": SCORES,
    }  # fmt: skip
    kinds += [
        Kind(f"one bit flipped in {name}", partial(flips, subject), 25, 500)
        for name, subject in names.items()
    ]
    return [
        *kinds,
        Kind("one bit flipped in config.yaml", changed_settings, 10, 100),
        Kind("NaN or infinity in a checkpoint", bad_weights, 5, 100),
        Kind("NaN or infinity in scores", bad_scores, 5, 100),
        Kind("table of another dataset", stale_tables, 4, 20),
    ]

"""Writers whose result must be the old one or the new one after any fault, and their faults."""

import errno
import itertools
import random
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from fault_points import fail_at, kill_at, lose_data, lose_names, operations, watched
from fault_table import Kind, Outcome, judge, time_limit
from short_runs import SETTINGS
from synthetic_videos import gray_frames, shard_config, write_clip
from written_runs import write_run, write_test

from configs.cluster import Staging
from configs.digests import file_digest, write_digest
from configs.errors import TinError
from configs.files import atomic_folder, write_link
from configs.load import dump, load
from configs.small_files import read_json
from launch.jobs.staging import copy_shards
from launch.record import End, add_end, ends
from preprocess.annotations.labels import Video
from preprocess.convert import encode_shard, merge, shard
from preprocess.integrity import check_dataset
from preprocess.quarantine import read_shard_list
from preprocess.shard_plan import ShardTask
from preprocess.shards import read_info
from preprocess.tars import read_shard
from tin.deploy.parts import Part, load_part, part_path, save_part
from tin.deploy.predictions import _finish
from tin.evaluation.scores import Scores, load_result, save
from tin.evaluation.scores import load as load_scores
from tin.models.tensor_files import read_tensors, write_tensors
from tin.op.trust import check_trust
from tin.reports.results import load_runs, write_report
from tin.runs import checkpoint
from tin.runs.folder import FencedError, Run
from tin.runs.foreign import _write_run


@dataclass(frozen=True)
class Writer:
    """A writer of files that promise something, and a reader that keeps it to the promise."""

    name: str
    prepare: Callable[[Path], None]
    """Writes the old result into an empty folder, and whatever the writer needs."""
    write: Callable[[Path], None]
    """Writes the new result into that folder."""
    read: Callable[[Path], str]
    """Returns a text that tells the old result from the new one; rejects a damaged one."""
    may_vanish: bool = False
    """Whether neither may be there after a fault, because running the same command again is what
    the error message asks for."""


def _run(folder: Path) -> Run:
    """Return a run as its first attempt sees it."""
    run = Run(folder)
    run.attempt = 1
    return run


def _state(step: int) -> dict[str, object]:
    return {"global_step": step, "model": {"w": torch.full((1000,), float(step))}}


def _save_step(step: int, folder: Path, name: str | None = None) -> None:
    run = _run(folder)
    if not (run.job / "attempt-01").exists():
        run.start_attempt()
    checkpoint.save(run, _state(step), name)  # type: ignore[arg-type]


def _newest(folder: Path) -> str:
    state = checkpoint.load_newest(_run(folder))
    assert state is not None
    assert state["model"]["w"].eq(state["global_step"]).all()
    return str(state["global_step"])


def _best(folder: Path) -> str:
    state = checkpoint.load(folder / "checkpoints" / "best.pt")
    assert state["model"]["w"].eq(state["global_step"]).all()
    return str(state["global_step"])


def _write_config(settings: Sequence[str], folder: Path) -> None:
    Run(folder).write("config.yaml", dump(load(None, [*SETTINGS, *settings])))


def _save_scores(value: float, folder: Path) -> None:
    scores = np.full((4, 1, 3), 0.1, np.float32)
    scores[:, 0, 0] = value
    save(folder, Scores(list("abcd"), np.arange(4) % 3, scores, ("x", "y", "z")), {"value": value})


def _read_scores(folder: Path) -> str:
    """Return the value that both files of a finished test have."""
    value = load_result(folder)["value"]
    assert load_scores(folder).scores.max() == np.float32(value)
    return str(value)


def _prepare_shards(folder: Path) -> None:
    for index in range(4):
        path = folder / "source" / "ab"[index % 2] / f"{index}.mp4"
        write_clip(path, gray_frames(3 + index))
    shard(shard_config(folder / "source"), folder / "data")


def _prepare_merge(folder: Path) -> None:
    """Write shards without their tables."""
    _prepare_shards(folder)
    for path in [*folder.glob("data/*.npy"), *folder.glob("data/*.csv")]:
        path.unlink()
    (folder / "data" / "dataset.yaml").unlink()


def _prepare_clips(folder: Path) -> None:
    write_clip(folder / "source" / "a.mp4", gray_frames(5))
    (folder / "source" / "b.mp4").write_bytes(b"no video")


def _encode(folder: Path) -> None:
    videos = tuple(Video(f"{key}.mp4", ("x",), "train", key) for key in "ab")
    settings = shard_config(folder / "source").shard
    encode_shard(folder, settings, ShardTask("train", 0, videos), lambda text: None)


def _read_one_shard(folder: Path) -> str:
    path = folder / "train-00000.tar"
    if not path.exists():
        return ""
    keys = [record.key for record, _ in read_shard(path)]
    return f"{keys} {[video.key for video in read_shard_list(folder, path.name)]}"


def _digest(folder: Path) -> str:
    check_dataset(folder, ["train"])
    return read_info(folder).digest


def _prepare_copy(folder: Path) -> None:
    _prepare_shards(folder)
    (folder / "disk").mkdir()


def _copy(folder: Path) -> None:
    copy_shards(folder / "data", ["train"], Staging(dir=str(folder / "disk")))


def _read_copy(folder: Path) -> str:
    copies = list(folder.glob("disk/tin-*/data"))
    return _digest(copies[0]) if copies else ""


def _folder(text: str, folder: Path) -> None:
    path = folder / f"code-{text}"
    if path.exists():  # as for the code of a submission, which is copied once
        return
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text(text)
        (temporary / "b").write_text(text)


def _read_folders(folder: Path) -> str:
    """Return the newest complete folder; all its files must agree."""
    path = max(folder.glob("code-*"))
    texts = {file.read_text() for file in path.iterdir()}
    assert texts == {path.name[-1]}
    return texts.pop()


def _prepare_library(folder: Path) -> None:
    (folder / "op.so").write_bytes(b"code")


def _write_library_digest(folder: Path) -> None:
    write_digest(folder / "op.so", file_digest(folder / "op.so"))


def _read_library(folder: Path) -> str:
    check_trust(folder / "op.so")
    return "trusted"


def _tensors(value: int, folder: Path) -> None:
    write_tensors(folder / "weights.pt", {"w": torch.full((9,), float(value))})


def _finish_stage(stage: str, folder: Path) -> None:
    run = _run(folder)
    if not (run.job / "attempt-01").exists():
        run.start_attempt()
    run.append("metrics.csv", ["step"], {"step": 1})
    run.finish(stage)


def _add_end(number: int, folder: Path) -> None:
    add_end(folder, End("7", number, "train", "stopped", text="time limit"))


def _part(score: float) -> Part:
    """Return a part with the predictions of two videos."""
    return Part(
        rows=np.arange(2), best=np.zeros((2, 1), np.int64), best_scores=np.full((2, 1), score),
        label_ranks=np.full(2, -1), precisions=np.full(2, np.nan),
        scores=np.full((2, 1, 3), score, np.float32), features=np.zeros((2, 0), np.float16),
        bad_rows=np.zeros(0, np.int64), bad_predicted=np.zeros(0, bool),
        bad_reasons=np.zeros(0, np.str_),
    )  # fmt: skip


def _save_part(score: float, folder: Path) -> None:
    save_part(folder / "part.npz", _part(score))


def _prepare_predictions(folder: Path) -> None:
    (folder / "parts").mkdir()
    save_part(part_path(folder, 0), _part(0.5))


def _finish_predictions(folder: Path) -> None:
    """Join the parts and write result.json, as the last step of `tin predict` does."""
    settings = SimpleNamespace(format="csv")
    config = SimpleNamespace(predict=settings, train=SimpleNamespace(loss="ce"))
    scorer: Any = SimpleNamespace(classes=list("xyz"), config=config)
    videos: Any = SimpleNamespace(keys=["a", "b"], labels=lambda row: ["x"])
    _finish(folder, {"num_parts": 1}, scorer, videos)


def _read_predictions(folder: Path) -> str:
    """Return what finished predictions have; result.json says that the other files are complete."""
    if not (folder / "result.json").exists():
        return ""
    values = read_json(folder / "result.json")
    lines = [(folder / name).read_text().splitlines() for name in ("predictions.csv", "keys.csv")]
    scores = np.load(folder / "scores.npy")
    assert [len(rows) for rows in lines] == [3, 3] and scores.shape == (2, 1, 3)
    assert (folder / "bad.csv").read_text() == "key,predicted,reason\n"
    return f"{values['num_predicted']} videos"


def _import(folder: Path) -> None:
    """Write a run from imported weights."""
    model: Any = SimpleNamespace(state_dict=lambda: {"w": torch.ones(1000)})
    _write_run(Run(folder / "imported"), load(None, SETTINGS), ["x"], model)


def _read_imported(folder: Path) -> str:
    """Return the classes of an imported run, which config.yaml says is complete."""
    run = Run(folder / "imported")
    if not run.exists():
        return ""
    run.config()
    return str(checkpoint.load(run.checkpoints / "best.pt")["classes"])


def _report(name: str, folder: Path) -> None:
    """Write the report of a run whose dataset has a name."""
    run_dir = folder / name
    if not run_dir.exists():
        write_run(run_dir, f"data.dataset=/data/{name}")
        write_test(run_dir, "val-1x1-224", right=3)
    write_report(load_runs([run_dir]), folder / "report")


def _read_report(folder: Path) -> str:
    """Return the run of the page; each file is complete and of one of the two runs."""
    names = []
    for suffix in ("csv", "md", "html"):
        text = (folder / "report" / f"results.{suffix}").read_text()
        assert suffix != "html" or "</html>" in text
        found = [name for name in ("run-old", "run-new") if name in text]
        assert len(found) == 1, f"results.{suffix} is of {found}"
        names += found
    return names[-1]


WRITERS = (
    Writer(
        "config.yaml", partial(_write_config, ["optim.lr=0.1"]),
        partial(_write_config, ["optim.lr=0.2"]), lambda f: str(Run(f).config().optim.lr),
    ),
    Writer("checkpoint", partial(_save_step, 1), partial(_save_step, 2), _newest),
    Writer(
        "best.pt", partial(_save_step, 1, name="best.pt"),
        partial(_save_step, 2, name="best.pt"), _best,
    ),
    Writer("job/DONE", partial(_finish_stage, "train"), partial(_finish_stage, "test"),
           lambda f: str(list(Run(f).done()))),
    Writer("job/ends", partial(_add_end, 0), partial(_add_end, 1), lambda f: str(len(ends(f)))),
    Writer(
        "scores.npz, result.json", partial(_save_scores, 0.5), partial(_save_scores, 0.7),
        _read_scores, may_vanish=True,
    ),
    Writer("weights", partial(_tensors, 1), partial(_tensors, 2),
           lambda f: str(read_tensors(f / "weights.pt")["w"].mean().item())),
    Writer("a part of predictions", partial(_save_part, 0.5), partial(_save_part, 0.7),
           lambda f: str(load_part(f / "part.npz").best_scores.max())),
    Writer("predictions", _prepare_predictions, _finish_predictions, _read_predictions,
           may_vanish=True),
    Writer("imported weights", lambda f: None, _import, _read_imported, may_vanish=True),
    Writer("report", partial(_report, "run-old"), partial(_report, "run-new"), _read_report),
    Writer("shard", _prepare_clips, _encode, _read_one_shard),
    Writer("tables, dataset.yaml", _prepare_merge, lambda f: str(merge(f / "data")),
           lambda f: _digest(f / "data"), may_vanish=True),
    Writer("staged copy", _prepare_copy, _copy, _read_copy, may_vanish=True),
    Writer("copied code", partial(_folder, "1"), partial(_folder, "2"), _read_folders),
    Writer("link", lambda f: write_link(f / "link", Path("old")),
           lambda f: write_link(f / "link", Path("new")), lambda f: str((f / "link").readlink())),
    Writer("op library's digest", _prepare_library, _write_library_digest, _read_library,
           may_vanish=True),
)  # fmt: skip
"""The merge, a copy, a digest, predictions and an import have no old result; their readers ask for
the command again."""


class Trial:
    """A writer with its old result, which is copied for each injection."""

    def __init__(self, writer: Writer, folder: Path):
        self.writer = writer
        self.before = folder / "before"
        self.work = folder / "work"
        for path in (self.before, self.work):
            shutil.rmtree(path, ignore_errors=True)
        # Prepare it at the place where it is used, because some results hold their path.
        self.work.mkdir(parents=True)
        writer.prepare(self.work)
        shutil.copytree(self.work, self.before, symlinks=True)
        self.old = _value(writer, self.work)
        self.operations = operations(self.write)
        self.new = writer.read(self.work)
        assert self.new and self.new != self.old, writer.name

    def numbers(self, kind: str) -> list[int]:
        """Return the numbers of the operations of a kind."""
        return [n for n, operation in enumerate(self.operations) if operation.kind == kind]

    def reset(self) -> None:
        """Bring back the old result."""
        shutil.rmtree(self.work)
        shutil.copytree(self.before, self.work, symlinks=True)

    def write(self) -> None:
        """Write the new result."""
        self.writer.write(self.work)

    def outcome(self, noticed: str, *, complete: bool = False) -> Outcome:
        """Judge what is left of the result; then the same command must complete it.

        Args:
            noticed: how the fault was noticed.
            complete: whether the writer had returned, so that only the new result is right.
        """
        allowed = {self.new} if complete else {self.old, self.new}
        if self.writer.may_vanish and not complete:
            allowed.add("")
        found = judge(lambda: self.writer.read(self.work), sorted(allowed))
        if found.problem:
            return Outcome(noticed, f"{self.writer.name}: {found.problem}")
        try:
            with time_limit():
                self.write()
            repeated = self.writer.read(self.work)
        except Exception as error:
            return Outcome(noticed, f"{self.writer.name}: cannot be repeated: {error!r}")
        if repeated != self.new:
            return Outcome(noticed, f"{self.writer.name}: repeated, {repeated} is not {self.new}")
        return Outcome(noticed)


def _value(writer: Writer, folder: Path) -> str:
    try:
        return writer.read(folder)
    except TinError:
        return ""


def each_trial(folder: Path, writers: Sequence[Writer]) -> Iterator[Trial]:
    """Yield a trial of each writer."""
    for number, writer in enumerate(writers):
        yield Trial(writer, folder / str(number))


def sampled(numbers: Sequence[int], draws: random.Random, count: int) -> list[int]:
    """Return at most `count` of some numbers of operations, in order, always with the last one."""
    if len(numbers) <= count:
        return list(numbers)
    return sorted([*draws.sample(numbers[:-1], count - 1), numbers[-1]])


def kills(
    kind: str, folder: Path, draws: random.Random, count: int,
    writers: Sequence[Writer] = WRITERS,
) -> Iterator[Outcome]:  # fmt: skip
    """Kill each writer before `count` of its operations of a kind; in a write, in its middle."""
    for trial in each_trial(folder, writers):
        for number in sampled(trial.numbers(kind), draws, count):
            trial.reset()
            kill_at(number, trial.write, folder / "log")
            yield trial.outcome("SIGKILL")


def errors(
    kind: str, code: int, folder: Path, draws: random.Random, count: int,
    writers: Sequence[Writer] = WRITERS,
) -> Iterator[Outcome]:  # fmt: skip
    """Let `count` operations of a kind fail with an error of the operating system."""
    for trial in each_trial(folder, writers):
        for number in sampled(trial.numbers(kind), draws, count):
            trial.reset()
            yield _failed(trial, partial(fail_at, number, code, trial.write))


def read_only(folder: Path, draws: random.Random, count: int) -> Iterator[Outcome]:
    """Let no file be created, as on a file system that is mounted read-only."""
    for trial in each_trial(folder, WRITERS):
        renames = range(len(trial.numbers("rename")))
        for number in sampled(renames, draws, count):
            trial.reset()
            yield _failed(trial, partial(_open_read_only, number, trial.write))


def _open_read_only(number: int, write: Callable[[], None]) -> None:
    """Let the creation of temporary file or folder `number` fail."""
    import configs.files as files

    count = -1
    original = files.temporary_path

    def named(path: Path) -> Path:
        nonlocal count
        count += 1
        # Nothing can be created in /sys/kernel, not even by root.
        return original(path) if count != number else Path("/sys/kernel") / original(path).name

    files.temporary_path = named
    try:
        write()
    finally:
        files.temporary_path = original


def full_files(folder: Path, draws: random.Random, count: int) -> Iterator[Outcome]:
    """Let the operating system end files at a random size, as a quota does."""
    for trial in each_trial(folder, WRITERS):
        sizes = [path.stat().st_size for path in trial.work.rglob("*") if path.is_file()]
        for _ in range(count if sizes else 0):
            trial.reset()
            limit = draws.randrange(max(sizes))
            yield _failed(trial, partial(_limited, limit, trial.write))


def _limited(size: int, write: Callable[[], None]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _failed(trial: Trial, write: Callable[[], None]) -> Outcome:
    """Run a writer that may fail; its error must be one of this project."""
    try:
        with time_limit():
            write()
    except TinError as error:
        return trial.outcome(type(error).__name__)
    except Exception as error:
        found = trial.outcome("raw error")
        return found if found.problem else Outcome("raw error", f"{trial.writer.name}: {error!r}")
    # The operation did not need to succeed, for example the copy of a shard.
    return trial.outcome("another way", complete=True)


def power_losses(
    lost: str, folder: Path, draws: random.Random, count: int,
    writers: Sequence[Writer] = WRITERS,
) -> Iterator[Outcome]:  # fmt: skip
    """Kill each writer at each operation and after it, and lose all that was not flushed."""
    for trial in each_trial(folder, writers):
        num = len(trial.operations)
        for number in sampled(range(num + 1), draws, count):
            trial.reset()
            done = kill_at(number, trial.write, folder / "log")
            if lost == "data":
                lose_data(done)
            else:
                lose_names(done, trial.work, trial.before)
            yield trial.outcome("power loss", complete=number == num)


def second_writers(folder: Path, draws: random.Random, count: int) -> Iterator[Outcome]:
    """Start a second attempt of a run at each operation of the first one's checkpoint."""
    fenced = [writer for writer in WRITERS if writer.name in ("checkpoint", "best.pt")]
    for trial in each_trial(folder, fenced):
        for number in sampled(range(len(trial.operations)), draws, count):
            trial.reset()
            try:
                _start_second_at(number, trial)
            except FencedError:
                noticed = "FencedError"
            else:
                noticed = "the first was complete"
            found = judge(partial(trial.writer.read, trial.work), [trial.old, trial.new])
            attempts = Run(trial.work).attempts()
            problem = found.problem or ("" if attempts == [1, 2] else f"attempts {attempts}")
            yield Outcome(noticed, problem)


def _start_second_at(number: int, trial: Trial) -> None:
    """Let a writer write, and start another attempt of its run before one of its operations."""
    count = itertools.count()

    def before(_: object, __: object) -> None:
        if next(count) == number:
            Run(trial.work).start_attempt()

    with watched(before):
        trial.write()


def writer_kinds() -> list[Kind]:
    """Return all kinds of faults of writers."""
    # Few writers have more than a dozen operations, so that 100 stands for all of them.
    kinds = [
        Kind(f"killed at {name}", partial(kills, kind), 2, 100)
        for kind, name in (("write", "a write"), ("fsync", "a flush"), ("rename", "a rename"))
    ]
    for code in (errno.ENOSPC, errno.EIO):
        for kind, name in (("write", "a write"), ("fsync", "a flush"), ("rename", "a rename")):
            text = f"{errno.errorcode[code]} at {name}"
            kinds.append(Kind(text, partial(errors, kind, code), 2, 100))
    return [
        *kinds,
        Kind("no file can be created, as on a read-only mount", read_only, 1, 100),
        Kind("file ends at a size limit", full_files, 1, 5),
        Kind("power loss, unflushed data lost", partial(power_losses, "data"), 3, 100),
        Kind("power loss, unflushed names lost", partial(power_losses, "names"), 3, 100),
        Kind("two writers on one run", second_writers, 2, 100),
    ]

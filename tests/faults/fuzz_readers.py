"""The readers that are fuzzed, each with valid files to start from."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from fuzz import Reader
from PIL import Image
from synthetic_dataset import write_dataset
from synthetic_videos import shard_config, write_labels
from untrained_run import write_run as write_model
from written_runs import write_diagnosis, write_run, write_test

from configs.cluster import load_submitted_cluster
from configs.digests import read_digest, write_digest
from configs.errors import TinError
from configs.load import load, read_yaml
from configs.small_files import DamagedFileError
from launch.record import (
    End,
    Note,
    SubmittedJob,
    add_end,
    add_job,
    ends,
    jobs,
    progress,
    read_notes,
    unnumbered_jobs,
    write_note,
)
from launch.status import statuses
from pipeline.store import FrameStore
from preprocess.annotations.labels import read_labels
from preprocess.annotations.read import read_annotations
from preprocess.decode import BadVideoError
from preprocess.flow import read_flow_folder
from preprocess.frame_folders import encode_folder
from preprocess.integrity import check_dataset
from preprocess.quarantine import QuarantinedVideo, read_shard_list, write_shard_list
from preprocess.shard_rows import read_rows
from preprocess.shards import open_split, read_info
from tin.deploy.part_files import join_parts
from tin.deploy.parts import Part, load_part, part_path, save_part
from tin.deploy.predictions import _start
from tin.deploy.video_lists import list_videos
from tin.evaluation.scores import load as load_scores
from tin.evaluation.scores import load_result, summarize
from tin.models.weights import read_clip, read_state
from tin.reports.results import load_runs, write_report
from tin.runs import checkpoint
from tin.runs.best import measured
from tin.runs.folder import CSV_FILES, METRICS_COLUMNS, OFFSETS, OFFSETS_FILE, STEPS, Run
from tin.runs.foreign import _implied
from tin.runs.rank_notes import RankNote, add_note
from tin.runs.restore import config_of, restore
from tin.training.early_stop import EARLY_STOP

CLASSES = {"left": 0, "right": 1, "still": 2}
RUN_FILES = (
    "run/metrics.csv", "run/steps.csv", "run/config.yaml", "run/job/DONE", "run/job/attempt-01",
    "run/job/jobs.jsonl", "run/job/ends/*.json", "run/job/notes/*.json", "run/job/executions.json",
    "run/environment-01.json", "run/early_stop.json", "run/doctor.json", "run/offsets.csv",
    "run/slow_ranks.csv", "run/tests/*/result.json", "run/tests/*/scores.npz",
    "run/tests/*/intervals.json",
)  # fmt: skip


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Count an error of one video as one of its file, which the list of bad videos names."""
    try:
        yield
    except BadVideoError as error:
        raise DamagedFileError(f"{path}: {error}") from None


def _finite(value: object) -> None:
    """Check that all numbers in nested dicts and lists are finite."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            _finite(inner)
    elif isinstance(value, float):
        assert math.isfinite(value), value


def _write_runs(folder: Path) -> None:
    """Write a run with a file of each kind, and another run that stays intact."""
    write_test(write_run(folder / "other"), "val-1x1-224", right=3)
    run_dir = write_run(folder / "run")
    write_test(run_dir, "val-1x1-224", right=3)
    add_job(run_dir, SubmittedJob("1", "train", "local", "logs", submitted=1.5))
    add_end(run_dir, End("1", 0, "train", "done", time=2.5))
    write_note(run_dir, "1", 0, Note("stopped", "text", 0, time=2.0))
    executions = {"executions": [{"elapsed_s": 60, "gpus": 2, "job": "1", "restart": 0}]}
    (run_dir / "job" / "executions.json").write_text(json.dumps(executions))
    write_diagnosis(run_dir)
    stop = {"epoch": 3, "watched": "top1", "best_epoch": 2, "patience": 1}
    (run_dir / EARLY_STOP).write_text(json.dumps(stop))
    run = Run(run_dir)
    add_note(run, RankNote(1, 10, 3, "node7", 2.5, "slow"), epoch=1)
    for step in (10, 20):
        values = [step, "layer1.0", 0.5, -0.5, 0.25, 0.25, 1.0, 1.0]
        run.append(OFFSETS_FILE, OFFSETS, dict(zip(OFFSETS, values, strict=True)))
    load_runs([run_dir])  # keeps the intervals of the test
    (run_dir / "checkpoints").mkdir()
    (run_dir / "checkpoints" / "step-00000010-a01.pt").write_bytes(b"x")


def _status(folder: Path) -> None:
    found, _ = statuses([folder / "run", folder / "other"])
    assert [status.run_dir.name for status in found] == ["run", "other"]
    assert found[1].state == "done"


def _report(folder: Path) -> None:
    """Check the row of the other run, and that the report can be written."""
    table = load_runs([folder / "run", folder / "other"])
    row = table[table["run"] == str(folder / "other")].iloc[0]
    assert (row["state"], row["top1"]) == ("done", 0.75)
    for column in ("top1", "gpu_hours", "clips_per_s"):
        assert all(map(math.isfinite, table[column].dropna()))
    write_report(table, folder / "report")


def _records(folder: Path) -> None:
    """Read the records of jobs as submit, cancel and requeue do."""
    run_dir = folder / "run"
    assert all(isinstance(job.id, str) for job in [*jobs(run_dir), *unnumbered_jobs(run_dir)])
    assert all(math.isfinite(end.time) for end in ends(run_dir))
    assert all(note.rank >= 0 or note.rank < 0 for note in read_notes(run_dir, "1", 0))
    assert progress(run_dir) >= 0
    run = Run(run_dir)
    run.attempts()
    _finite(run.done())
    run.config()
    _finite([list(row) for row in measured(run)])
    _finite(load_result(run_dir / "tests" / "val-1x1-224"))


def _cut_rows(folder: Path) -> None:
    """Cut the CSV files as a run does that resumes."""
    run = Run(folder / "run")
    run.start_attempt()
    run.cut("metrics.csv", METRICS_COLUMNS, 20)
    run.cut("steps.csv", STEPS, 20)
    for name, columns in (("metrics.csv", METRICS_COLUMNS), ("steps.csv", STEPS)):
        first = (run.path / name).read_text().splitlines()[0]
        assert first == ",".join(columns)
    assert CSV_FILES


def _write_settings(folder: Path) -> None:
    write_run(folder / "run")
    (folder / "recipe.yaml").write_text(
        "model: {arch: resnet18, temporal: shift}\noptim: {lr: 1e-3}\ntrain:\n  epochs: 3\n"
    )
    (folder / "cluster.yaml").write_text(
        "nodes: 2\ngpus_per_node: 4\ntime_min: 60\nstages: {test: {nodes: 1}}\n"
    )


def _settings(folder: Path) -> None:
    for path in ("recipe.yaml", "run/config.yaml"):
        config = load(folder / path)
        _finite(config.model_dump(mode="json"))
    _finite(load_submitted_cluster(folder / "cluster.yaml").model_dump(mode="json"))
    read_yaml(folder / "recipe.yaml")


def _scores(folder: Path) -> None:
    scores = load_scores(folder / "tests" / "t")
    assert np.isfinite(scores.scores).all()
    assert len(scores.keys) == len(scores.labels) == len(scores.scores)
    if scores.labeled.any() and len(scores.classes):
        _finite(summarize(scores))
    _finite(load_result(folder / "tests" / "t"))


def _write_dataset(folder: Path) -> None:
    groups = ("a", "b", "c")
    write_dataset(folder / "data", [3, 1, 4, 2], per_shard=2, groups=groups)
    (folder / "data" / "quarantine").mkdir()
    videos = [QuarantinedVideo("k", "a/k.mp4", "no video stream")]
    write_shard_list(folder / "data", "train-00000.tar", videos)


def _tables(folder: Path) -> None:
    """Read the tables as training does after their digests have been compared."""
    split = open_split(folder / "data", "train")
    assert len(split.keys()) == split.num_videos
    assert np.isfinite(read_info(folder / "data").fps)


def _checked_dataset(folder: Path) -> None:
    check_dataset(folder / "data", ["train"])
    split = open_split(folder / "data", "train")
    store = FrameStore(split, readers=1)
    try:
        for row, video in enumerate(split.videos):
            store.read(row, range(int(video["num_frames"])))
            split.labels_of(row)
    finally:
        store.close()


def _shard_records(folder: Path) -> None:
    rows = read_rows(folder / "data", "train", 0, CLASSES)
    assert all(math.isfinite(float(row.fps)) for row in rows.csv_rows)


def _quarantine(folder: Path) -> None:
    for video in read_shard_list(folder / "data", "train-00000.tar"):
        assert video.reason is not None


def _write_checkpoint(folder: Path) -> None:
    write_dataset(folder / "data", [2, 2, 2])
    run_dir = write_model(folder / "run", folder / "data")
    torch.manual_seed(0)
    small = {"format": 1, "model": {"w": torch.randn(3, 4)}, "epoch": 1, "sums": [0.5, 1.0]}
    small |= {"optimizer": {"state": {0: {"m": torch.ones(2)}}}, "config": {}, "classes": ["a"]}
    torch.save(small, run_dir / "checkpoints" / "small.pt")


def _small_checkpoint(folder: Path) -> None:
    state = checkpoint.load(folder / "run" / "checkpoints" / "small.pt")
    for tensor in state["model"].values():
        assert torch.isfinite(tensor).all()


def _model(folder: Path) -> None:
    state = checkpoint.load(folder / "run" / "checkpoints" / "best.pt")
    try:
        network = restore(state, config_of(state))
    except TinError as error:  # callers name the file
        raise DamagedFileError(f"best.pt: {error}") from None
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())


def _write_weights(folder: Path) -> None:
    """Write the tensors of a tiny network with the names of TIN and TSM."""
    prefix = "module.base_model."
    tensors = {
        f"{prefix}conv1.weight": torch.randn(2, 3, 3, 3),
        **{
            f"{prefix}layer{layer}.{block}.conv1.weight": torch.randn(2, 2, 1, 1)
            for layer in range(1, 5)
            for block in range(2)
        },
        "module.new_fc.weight": torch.randn(2, 2),
        "module.new_fc.bias": torch.randn(2),
    }
    content = {"epoch": 3, "arch": "resnet18", "state_dict": tensors, "best_prec1": 0.5}
    torch.save({**content, "clip": {"num_segments": 8}}, folder / "weights.pt")
    torch.save({**content}, folder / "legacy.pt", _use_new_zipfile_serialization=False)


def _weights(folder: Path) -> None:
    for name in ("weights.pt", "legacy.pt"):
        path = folder / name
        state = read_state(path)
        assert all(torch.isfinite(tensor).all() for tensor in state.values())
        read_clip(path)
        _implied(path, state)


def _part(first: int) -> Part:
    scores = np.full((2, 1, 3), 1 / 3, np.float32)
    return Part(
        rows=np.array([first, first + 1]), best=np.array([[0, 1], [2, 1]]),
        best_scores=np.array([[0.5, 0.3], [0.6, 0.2]]), label_ranks=np.array([0, -1]),
        precisions=np.array([1.0, np.nan]), scores=scores, features=np.ones((2, 4), np.float16),
        bad_rows=np.array([first]), bad_predicted=np.array([True]),
        bad_reasons=np.array(["a frame is damaged"]),
    )  # fmt: skip


def _write_parts(folder: Path) -> None:
    (folder / "parts").mkdir()
    for number in range(2):
        save_part(part_path(folder, number), _part(2 * number))
    (folder / "plan.json").write_text('{"format": 2, "part": 2, "settings": {"clip": {"a": 1}}}')


def _parts(folder: Path) -> None:
    keys = list("abcd")
    for number in range(2):
        load_part(part_path(folder, number))
    found = join_parts(folder, 2, keys, lambda row: ["x"], list("xyz"), "csv", multi_label=False)
    _finite(found)
    _start(folder, {"format": 2, "part": 2, "settings": {"clip": {"a": 1}}})


def _write_labels(folder: Path) -> None:
    (folder / "videos").mkdir()
    write_labels(
        folder / "labels.csv",
        [
            {"path": f"{key}.mp4", "labels": "x;y", "split": "train", "key": key, "group": "g"}
            for key in "abc"
        ],
    )
    (folder / "list.csv").write_text("path,labels,key\na.mp4,x;y,k\nb.mp4,,\n")
    (folder / "list.txt").write_text("c.mp4\nd.mp4\n")


def _labels(folder: Path) -> None:
    source = folder / "videos"
    settings = ("shard.multi_label=true", f"shard.labels={folder / 'labels.csv'}")
    try:
        read_labels(folder / "labels.csv", source)
        read_annotations(shard_config(source, *settings).shard)
    except TinError as error:  # a rule about several lines names the videos
        raise DamagedFileError(f"labels.csv: {error}") from None
    list_videos([folder / "list.csv", folder / "list.txt"])


FORMATS = ("sthv2", "kinetics", "ucf101", "lists", "mmit", "sthv1")


def _write_formats(folder: Path) -> None:
    files = {
        "sthv2/labels.json": '{"x": "0", "y": "1"}',
        "sthv2/train.json": '[{"id": "1", "template": "[x]"}, {"id": "2", "template": "y"}]',
        "sthv2/validation.json": '[{"id": "3", "template": "x"}]',
        "sthv2/test.json": '[{"id": "4"}]',
        "kinetics/a.csv": "label,youtube_id,time_start,time_end,split\nx,abc,1,11,train\n",
        "ucf101/classInd.txt": "1 x\n2 y\n",
        "ucf101/trainlist01.txt": "x/a.avi 1\ny/b.avi 2\n",
        "ucf101/testlist01.txt": "x/c.avi\n",
        "lists/train.txt": "a b 30 0,1\nc 30 1\n",
        "lists/category.txt": "x\ny\n",
        "mmit/trainingSet.csv": "a.mp4,0,1\n",
        "mmit/validationSet.csv": "b.mp4,1\n",
        "mmit/categories.txt": "x,0\ny,1\n",
        "sthv1/train.csv": "1;x\n2;y\n",
        "sthv1/validation.csv": "3;x\n",
        "sthv1/test.csv": "4\n",
        "sthv1/labels.csv": "x\ny\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "kinetics" / "abc_000001_000011.mp4").write_bytes(b"")


def _formats(folder: Path) -> None:
    for name in FORMATS:
        files = list((folder / name).iterdir())
        settings = (f"shard.format={name}", "shard.multi_label=true")
        try:
            read_annotations(shard_config(folder / name, *settings).shard)
        except TinError as error:  # a rule about several files names the video
            raise DamagedFileError(f"a file of {[path.name for path in files]}: {error}") from None


def _write_frames(folder: Path) -> None:
    for name in ("frames/1.jpg", "frames/2.jpg", "flow/flow_x_1.jpg", "flow/flow_y_1.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        mode = "L" if "flow" in name else "RGB"
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new(mode, (24, 16), 90).save(folder / name, exif=exif)


def _frames(folder: Path) -> None:
    settings = load(None, ["shard.flow=folders", "shard.short_side=12"]).shard
    with _naming(folder / "frames"):
        encode_folder(folder / "frames", settings)
    with _naming(folder / "flow"):
        read_flow_folder(folder / "flow", settings)


def _write_digest(folder: Path) -> None:
    write_digest(folder / "op.so", "ab" * 32)


READERS = (
    Reader("status of a run folder", _write_runs, _status, RUN_FILES, must_answer=True,
           rename=("run/job/attempt-*", "run/job/ends/*", "run/tests/*", "run/checkpoints/*")),
    Reader("report of a run folder", _write_runs, _report, RUN_FILES, must_answer=True,
           rename=("run/job/attempt-*", "run/tests/*", "run/environment-*")),
    Reader("records of jobs, DONE, attempts, config.yaml, result.json", _write_runs, _records,
           RUN_FILES, rename=("run/job/attempt-*", "run/job/ends/*", "run/checkpoints/*")),
    Reader("rows of csv files when a run resumes", _write_runs, _cut_rows,
           ("run/metrics.csv", "run/steps.csv")),
    Reader("recipes, config.yaml, cluster files", _write_settings, _settings,
           ("*.yaml", "run/config.yaml")),
    Reader("scores.npz, result.json", lambda folder: write_test(folder, "t", right=3), _scores,
           ("tests/t/scores.npz", "tests/t/result.json")),
    Reader("dataset.yaml, npy tables, csv of keys", _write_dataset, _tables,
           ("data/train.*", "data/dataset.yaml")),
    Reader("dataset with its digests and frames", _write_dataset, _checked_dataset,
           ("data/train.*", "data/train-*", "data/dataset.yaml")),
    Reader("tar files and their records", _write_dataset, _shard_records,
           ("data/train-00000.tar",)),
    Reader("list of a shard's quarantine", _write_dataset, _quarantine,
           ("data/quarantine/*.csv",)),
    Reader("checkpoints", _write_checkpoint, _small_checkpoint, ("run/checkpoints/small.pt",)),
    Reader("models of checkpoints", _write_checkpoint, _model, ("run/checkpoints/best.pt",)),
    Reader("weights of other projects", _write_weights, _weights, ("*.pt",)),
    Reader("parts and plan of predictions", _write_parts, _parts, ("parts/*.npz", "plan.json")),
    Reader("labels.csv, lists of videos", _write_labels, _labels, ("labels.csv", "list.*")),
    Reader("annotations of public datasets", _write_formats, _formats,
           ("*/*.json", "*/*.csv", "*/*.txt")),
    Reader("folders of frames and of flow", _write_frames, _frames, ("frames/*", "flow/*")),
    Reader("digest beside a file", _write_digest,
           lambda folder: read_digest(folder / "op.so"), ("op.so.sha256",)),
)  # fmt: skip

"""What people mistype, and the answers: each names the place, what was found, and what to type.

All mistakes run in one process, which must not import torch: answers must come at once. The
expected texts were written and reviewed by hand.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_videos import noise_frames, write_clip

from configs.load import dump, load
from launch.cli import FIRST_STEPS
from preprocess.convert import shard

RUN_ALL = """
import contextlib, io, json, os, sys, types
from pathlib import Path
os.environ["TERMINAL_WIDTH"] = "1000"
from launch import cli
def run(arguments):
    sys.argv = ["tin", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
    return code, out.getvalue(), err.getvalue()
commands = json.loads(sys.stdin.read())
found = [run(command) for command in commands]
print(json.dumps([found, "torch" in sys.modules]))
"""
"""Runs commands one after the other; prints exit codes, outputs, and whether torch was imported."""

MISTAKES = {
    # Settings typed as options, or in another form
    "train clips --run r --epochs 3": (
        "--epochs is not an option: settings are typed as section.key=value, here train.epochs=3"
    ),
    "train clips --run r --lr=0.1": (
        "--lr is not an option: settings are typed as section.key=value, here optim.lr=0.1"
    ),
    "train clips --run r --train.epochs 3": (
        "--train.epochs is not an option: settings are typed as section.key=value, here"
        " train.epochs=3"
    ),
    "train clips --run r --num-segments 4": (
        "--num-segments is not an option: settings are typed as section.key=value, here"
        " clip.num_segments=4"
    ),
    "train clips --run r --batch 4": (
        "--batch is not an option: settings are typed as section.key=value, here train.batch=4 or"
        " test.batch=4"
    ),
    "train clips --run r --dataset shards": (
        "--dataset is not an option: settings are typed as section.key=value, here"
        " data.dataset=shards"
    ),
    "test run --crops 3": (
        "--crops is not an option: settings are typed as section.key=value, here test.crops=3"
    ),
    "submit train clips --run r --cluster local --seed 3": (
        "--seed is not an option: settings are typed as section.key=value, here shard.seed=3 or"
        " train.seed=3"
    ),
    "config clips epochs=3": ("command line: unknown setting epochs; did you mean train.epochs?"),
    "config clips train.epoch=3": (
        "command line: unknown setting train.epoch; did you mean train.epochs?"
    ),
    "config clips train.epochs 3": (
        "command line: 'train.epochs' is not a setting of the form section.key=value; type"
        " train.epochs=3"
    ),
    "config clips train.epochs": (
        "command line: 'train.epochs' is not a setting of the form section.key=value; type"
        " train.epochs=VALUE"
    ),
    "config clips epochs": (
        "command line: 'epochs' is not a setting of the form section.key=value; did you mean"
        " train.epochs?"
    ),
    "config clips train.epochs=many": (
        "command line: train.epochs: found 'many', expected a valid integer"
    ),
    "config clips train.epochs=0": "command line: train.epochs: found 0, expected greater than 0",
    "config clips train.epochs=2.5": (
        "command line: train.epochs: found 2.5, expected a valid integer"
    ),
    "config clips optim.lr=fast": "command line: optim.lr: found 'fast', expected a valid number",
    "config clips optim.lr=-1": "command line: optim.lr: found -1, expected greater than 0",
    "config clips model.arch=resnet51": (
        "command line: model.arch: found 'resnet51', expected 'resnet18', 'resnet34', 'resnet50',"
        " 'resnet101', 'resnet152' or 'mobilenetv2'"
    ),
    "config clips train.loss=mse": "command line: train.loss: found 'mse', expected 'nll' or 'bce'",
    "config clips model.dropout=1": "command line: model.dropout: found 1, expected less than 1",
    "config clips train=3": "command line: train: found 3, expected an object",
    "config clips train.epochs.x=3": (
        "setting 'train.epochs.x=3': epochs is a value, not a section"
    ),
    "config clips train.batch=9 train.accumulate=2": (
        "command line: train.batch 9 is not a multiple of train.accumulate 2; change one of them"
    ),
    "config clips train.loss=bce train.label_smoothing=0.1": (
        "command line: train.label_smoothing 0.1 works only with train.loss nll, but train.loss is"
        " bce; set train.label_smoothing=0"
    ),
    "config clips test.crop=999": (
        "command line: the test crop of 999 pixels is larger than clip.resize 112; set a smaller"
        " test.crop or a larger clip.resize"
    ),
    "config clips clip.sampling=dense shard.frame_cap=9": (
        "command line: clip.sampling dense needs all frames of a video, but shard.frame_cap is 9;"
        " set shard.frame_cap=0"
    ),
    "config clips =3": "command line: '=3' is not a setting of the form section.key=value",
    # Recipes
    "config clip": (
        "unknown recipe clip; did you mean clips? Give the path of an existing .yaml file, or a"
        " name"
        " that `tin config` lists"
    ),
    "config tin_r50_8f_kinetics": (
        "unknown recipe tin_r50_8f_kinetics; did you mean tin_r50_8f_kinetics400? Give the path of"
        " an existing .yaml file, or a name that `tin config` lists"
    ),
    "config none.yaml": (
        "unknown recipe none.yaml. Give the path of an existing .yaml file, or a name that `tin"
        " config` lists"
    ),
    "config typo.yaml": ("typo.yaml: unknown setting train.epoch; did you mean train.epochs?"),
    "config wrong.yaml": "wrong.yaml: train.epochs: found 'x', expected a valid integer",
    "config list.yaml": "list.yaml: expected a mapping, found list",
    "config twice.yaml": (
        'twice.yaml: duplicate key train in "<unicode string>", line 1, column 1'
    ),
    # Training
    "train --run none": "none is not a run yet; name a recipe to start one",
    "train nosuch --run r": (
        "unknown recipe nosuch. Give the path of an existing .yaml file, or a name that `tin"
        " config`"
        " lists"
    ),
    "train r --run clips": (
        "r is not a recipe, but --run clips is one; they seem to be swapped. Type `tin train clips"
        " --run r`"
    ),
    "train clips --run r data.dataset=": (
        "command line: data.dataset: found nothing, expected a valid string"
    ),
    "train tin_r50_8f_kinetics400 --run r data.dataset='\"\"'": (
        "data.dataset is empty; set it to the folder of a dataset or to a name in site.yaml"
    ),
    "train clips --run r data.dataset=/none": (
        "data.dataset /none: /none contains no dataset.yaml; create the dataset with `tin shard`,"
        " or"
        " map its name to a folder in site.yaml"
    ),
    "train clips --run r data.dataset=shards data.test_split=valid": (
        "no split valid in {here}/shards; it has train, val. Set data.test_split=val"
    ),
    "train clips --run r data.dataset=other": (
        "no split val in {here}/other; it has train, validation. Set data.test_split=validation"
    ),
    "train clips --run r data.dataset=other data.test_split=validation data.train_split=training": (
        "no split training in {here}/other; it has train, validation. Set data.train_split=train"
    ),
    "train clips --run r data.dataset=training": (
        "no split val in {here}/training; it has train. Make a dataset with a split to evaluate on:"
        " `tin shard` with shard.held_out=0.2, or with a column split in the labels. To evaluate on"
        " the training videos, set data.test_split=train"
    ),
    "train clips --run r data.dataset=shards train.batch=48": (
        "train.batch 48 is more than the 8 videos of split train in {here}/shards. Set"
        " train.batch=8."
    ),
    "train clips --run r data.dataset=shards train.batch=48 train.accumulate=3": (
        "train.batch 48 is more than the 8 videos of split train in {here}/shards. Set"
        " train.batch=6."
    ),
    "train clips --run r data.dataset=shards train.batch=48 train.accumulate=12": (
        "train.batch 48 is more than the 8 videos of split train in {here}/shards. Add videos, or"
        " set train.accumulate=1."
    ),
    "train clips --run r data.dataset=shards train.loss=bce": (
        "train.loss=bce does not fit {here}/shards, which has one label per video; set"
        " train.loss=nll"
    ),
    "train clips --run r data.dataset=single data.test_split=train train.batch=4": (
        "{here}/single has one class, 'a', so there is nothing to learn; make a dataset of at least"
        " two classes with `tin shard`"
    ),
    "train clips --run r data.dataset=shards model.init=none.pth": (
        "model.init none.pth: this file does not exist. Name a checkpoint of this project or of a"
        " model zoo, or set model.init=imagenet or model.init=none."
    ),
    "train clips --run r data.dataset=shards model.init=imagenet": (
        "model.init imagenet: {here}/cache/weights/resnet18-f37072fd.pth does not exist. Run `tin"
        " weights"
        " fetch resnet18` on a machine with a network (a login node), copy"
        " https://download.pytorch.org/models/resnet18-f37072fd.pth there by hand, or train from"
        " random weights with model.init=none."
    ),
    "train clips --run r shard.short_side=64": (
        "shard.short_side=64: `tin train` does not use settings of section shard; it uses data,"
        " clip, augment, model, optim, train, test, predict and run. Give this setting to the"
        " command that uses it."
    ),
    "train --run run train.epochs=9": (
        "run was started with different settings: train.epochs: 20 -> 9. Leave them out to resume"
        " the run with its own settings, or name another run folder."
    ),
    # Test and predict
    "test none": "none does not exist; expected the folder of a run",
    "test rum": "rum does not exist; expected the folder of a run; did you mean run?",
    "test clips": (
        "clips is a recipe, not a run; expected the folder that `tin train clips --run DIR` wrote"
    ),
    "test shards": "shards is a dataset, not a run; expected the folder of a trained run",
    "test .": ". is not a run, but a folder of 2 runs; name one of them, such as new",
    "test videos": "videos is not a run: it has no config.yaml",
    "test new": (
        "new has no checkpoint yet; train it with `tin train --run new` until its first epoch ends"
    ),
    "test run --views 2": "--views 2: expected CLIPSxCROPS, for example 2x3",
    "test run --views 2x4": "command line: test.crops: found 4, expected 1, 3, 5 or 10",
    "test run data.test_split=test": (
        "no split test in {here}/shards; it has train, val. Set data.test_split=val"
    ),
    "test run optim.lr=3": (
        "optim.lr=3: `tin test` does not use settings of section optim; it uses test, run and data."
        " Give this setting to the command that uses it."
    ),
    "predict videos/a/0.mp4 run": (
        "videos/a/0.mp4 is a video; expected first a run or a checkpoint, then videos. Type `tin"
        " predict RUN videos/a/0.mp4`"
    ),
    "predict none videos/a/0.mp4": "none does not exist; expected the folder of a run",
    "predict run videos/a/9.mp4": (
        "videos/a/9.mp4 does not exist; expected a video; did you mean videos/a/8.mp4?"
    ),
    "predict run videos/a/0.mp4 --timeline": (
        "--timeline writes files; give a folder with --out DIR"
    ),
    # Results
    "report none": "none does not exist; expected a run or a folder of runs",
    "report rnu": "rnu does not exist; expected a run or a folder of runs; did you mean run?",
    "report videos": (
        "videos contains no run; expected a run or a folder of runs. `tin train` and `tin submit`"
        " create a run with --run."
    ),
    "fuse a b --out c": (
        "a/scores.npz does not exist; expected the scores of a test, which `tin test` writes"
    ),
    "fuse a b --out c --weights x": (
        "--weights x: expected numbers separated by commas, for example 2,1"
    ),
    "status none": "none: no run found here; expected a run or a folder of runs",
    "logs none": (
        "none has no jobs and no log of `tin train`; `tin submit` and `tin train` start a run"
    ),
    # Datasets
    "shard none d": "none does not exist; expected a folder of videos",
    "shard video d": "video does not exist; expected a folder of videos; did you mean videos?",
    "shard d videos": (
        "d does not exist, but videos does; they seem to be swapped. Type `tin shard videos d`"
    ),
    "shard shards videos": (
        "shards is a dataset already; expected first the folder of videos, then the dataset to"
        " write"
    ),
    "shard labels.csv d": (
        "labels.csv is a file; expected the folder of the videos. A labels file is given with"
        " --labels"
    ),
    "shard videos videos/shards": (
        "the dataset videos/shards lies in the folder of the videos, {here}/videos, where its"
        " shards"
        " would be taken for a class. Name a folder outside, for example {here}/videos-shards"
    ),
    "shard videos d --parts 4": (
        "--parts 4 needs --part I, the number of the part to write, from 0 to 3; leave both out to"
        " write all shards"
    ),
    "shard videos d --parts 4 --part 4": (
        "part 4 does not exist: shard.parts is 4, so parts are numbered 0 to 3"
    ),
    "shard videos d train.epochs=3": (
        "train.epochs=3: `tin shard` does not use settings of section train; it uses shard and run."
        " Give this setting to the command that uses it."
    ),
    "shard videos d --dataset ucf": (
        "shard.format 'ucf' is unknown; the formats are direction, hmdb51, jester, kinetics, lists,"
        " mit, mmit, sthv1, sthv2, ucf101"
    ),
    "shard videos/a d": (
        "videos/a contains no videos in folders of classes (CLASS/VIDEO.mp4). 9 videos lie directly"
        " in the folder. Move the videos into a folder per class, or give a labels CSV with"
        " --labels"
        " or a format with --dataset."
    ),
    "shard videos d --labels none.csv": (
        "none.csv: [Errno 2] No such file or directory: 'none.csv'"
    ),
    "shard videos d --labels nolabel.csv": (
        "nolabel.csv: column labels is missing (it may also be called label or class); the first"
        " line must be path,labels[,split][,key][,group][,reverse], found path, number"
    ),
    "shard videos d --labels outside.csv": (
        "outside.csv:2: path '/etc/passwd' leads out of the source folder; write it relative to"
        " that"
        " folder and without `..`"
    ),
    "shard videos d shard.held_out=1": (
        "command line: shard.held_out: found 1, expected less than 1"
    ),
    "shard videos d --recipe nosuch": (
        "unknown recipe nosuch. Give the path of an existing .yaml file, or a name that `tin"
        " config`"
        " lists"
    ),
    "data verify none": "none does not exist; expected a dataset",
    "data verify videos": (
        "videos is not a dataset: it has no dataset.yaml. `tin shard videos DATASET` makes one of a"
        " folder of videos"
    ),
    "bench data none": "none does not exist; expected a dataset",
    # Weights
    "weights import none.pth": "none.pth does not exist; expected a checkpoint",
    "weights import run": "run is a folder; expected a checkpoint",
    "weights export none out.pth": "none does not exist; expected the folder of a run",
    # Submission
    "submit train,shard clips --run r --cluster local": (
        "stages train,shard: expected some of shard,train,test,predict,report in this order"
    ),
    "submit clips train --run r --cluster local": (
        "clips is a recipe and train are stages; they seem to be swapped. Type `tin submit train"
        " clips`"
    ),
    "submit train clips --run r --cluster none": (
        "no cluster file none; give the path of one, or one of cpu, debug, gpu, local"
    ),
    "submit train clips --run r --cluster local data.dataset=/none": (
        "data.dataset /none: /none contains no dataset.yaml; create the dataset with `tin shard`,"
        " or"
        " map its name to a folder in site.yaml"
    ),
}
"""What is typed after `tin`, and what `tin` answers; `{here}` is the current folder."""

CORRECTED = {
    "config clips train.epochs=3": "epochs: 3",
    "config clips": "num_segments: 8",
    "config": "tin_r50_8f_kinetics400",
    "shard videos corrected": "next: tin train clips --run runs/first data.dataset=corrected",
    "submit train clips --run r --cluster local --dry-run data.dataset=other"
    " data.test_split=validation train.batch=8": "test_split: validation",
}
"""Commands that the messages advise, and a part of what they print."""


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """Return a folder of videos, datasets, runs and files with errors."""
    folder = tmp_path_factory.mktemp("here")
    for number in range(9):
        for label in "ab":
            write_clip(folder / "videos" / label / f"{number}.mp4", noise_frames(2, 32))
    (folder / "labels.csv").write_text("path,label,split\n" + rows("train", 4) + rows("val", 2))
    (folder / "other.csv").write_text(
        "path,label,split\n" + rows("train", 4) + rows("validation", 2)
    )
    (folder / "alone.csv").write_text("path,label,split\n" + rows("train", 4))
    (folder / "one.csv").write_text("path,label,split\n" + rows("train", 4, "a"))
    (folder / "nolabel.csv").write_text("path,number\n")
    (folder / "outside.csv").write_text("path,label\n/etc/passwd,a\n")
    for name, dataset in (
        ("labels", "shards"),
        ("other", "other"),
        ("alone", "training"),
        ("one", "single"),
    ):
        given = [f"shard.source={folder / 'videos'}", f"shard.labels={folder / name}.csv"]
        shard(load(None, given), folder / dataset)
    (folder / "typo.yaml").write_text("train: {epoch: 3}")
    (folder / "wrong.yaml").write_text("train: {epochs: x}")
    (folder / "list.yaml").write_text("[1]")
    (folder / "twice.yaml").write_text("train: {epochs: 3}\ntrain: {batch: 3}")
    for name in ("new", "run"):
        (folder / name / "checkpoints").mkdir(parents=True)
        text = dump(load("clips", [f"data.dataset={folder / 'shards'}"]))
        (folder / name / "config.yaml").write_text(text)
    (folder / "run" / "checkpoints" / "best.pt").touch()
    (folder / "site.yaml").write_text(f"cache: {folder / 'cache'}")
    return folder


def rows(split: str, count: int, labels: str = "ab") -> str:
    """Return lines of a labels file: `count` videos of each label."""
    first = 0 if split == "train" else 4
    numbers = range(first, first + count)
    return "".join(f"{name}/{n}.mp4,{name},{split}\n" for name in labels for n in numbers)


def run_commands(here: Path, commands: list[str]) -> tuple[list, bool]:
    """Run commands in one process; return their codes, outputs and errors, and if torch came."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps([shlex.split(command) for command in commands]),
        capture_output=True,
        text=True,
        cwd=here,
        env={**os.environ, "TIN_SITE": str(here / "site.yaml")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results, has_torch = json.loads(done.stdout.splitlines()[-1])
    return results, has_torch


@pytest.fixture(scope="module")
def answers(here: Path) -> dict[str, tuple[int, str, str]]:
    """Return the answer to each mistake; torch was not imported for any of them."""
    results, has_torch = run_commands(here, list(MISTAKES))
    assert not has_torch
    return dict(zip(MISTAKES, results, strict=True))


def test_there_are_at_least_80_mistakes():
    assert len(MISTAKES) >= 80


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_answered(command, answers, here):
    code, _, error = answers[command]
    lines = [line for line in error.splitlines() if not line[:2].isdigit()]  # not of the log
    assert "\n".join(lines) == "tin: " + MISTAKES[command].replace("{here}", str(here))
    assert code == 2


def test_the_advised_commands_work(here):
    results, has_torch = run_commands(here, list(CORRECTED))
    for command, (code, output, error) in zip(CORRECTED, results, strict=True):
        assert code == 0, error
        assert CORRECTED[command] in output, command
    assert not has_torch


def test_tin_alone_prints_the_four_steps(here):
    (found,), _ = run_commands(here, [""])
    assert found == [0, FIRST_STEPS + "\n", ""]

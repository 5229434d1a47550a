"""Readers for the annotation files of public datasets, in the form that their authors distribute.

The splits are named train, val (results are published on it) and test (usually without labels).
The classes keep the numbers that they have in checkpoints of the original TIN code.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from configs.schema import ShardSettings
from preprocess.annotations.files import find, in_order, read_json, read_lines, read_rows
from preprocess.annotations.labels import AnnotationError, Video, checked_path, default_key

VideosAndClasses = tuple[list[Video], Sequence[str]]
"""The videos of a dataset, and its classes in the order of their numbers."""
SPLITS = {"train": "train", "val": "val", "test": "test", "validate": "val", "validation": "val"}
KINETICS_DEPTH = 3  # levels below the source folder: split, class, file


def read_format(settings: ShardSettings) -> VideosAndClasses:
    """Return the videos and the classes of a public dataset.

    The annotation files are in the folder `shard.annotations`, or in the source folder if that is
    not set.

    Raises:
        AnnotationError: names file and line, what was found and what was expected.
    """
    if settings.format not in READERS:
        names = ", ".join(sorted([*READERS, "direction"]))
        raise AnnotationError(
            f"shard.format {settings.format!r} is unknown; the formats are {names}"
        )
    folder = Path(settings.annotations or settings.source).expanduser()
    if not folder.exists():
        raise AnnotationError(f"shard.annotations {folder} does not exist")
    return READERS[settings.format](folder, settings)


def read_20bn(folder: Path, settings: ShardSettings) -> VideosAndClasses:
    """Read Something-Something v1 or Jester: lines `id;label`; the frames are in folders `id`.

    The classes are in alphabetical order, as TIN and TSM number them.
    """
    videos = []
    for split, name in (("train", "train.csv"), ("val", "validation.csv"), ("test", "test.csv")):
        for where, line in read_lines(find(folder, f"*{name}")):
            key, _, label = line.partition(";")
            videos.append(_video(where, key, label, split, key))
    return videos, sorted(line for _, line in read_lines(find(folder, "*labels.csv")))


def read_sthv2(folder: Path, settings: ShardSettings) -> VideosAndClasses:
    """Read Something-Something v2: JSON files; the videos are `id.webm`."""
    path = find(folder, "*labels.json")
    classes = in_order(path, list(read_json(path, dict).items()))
    videos = []
    for split, name in (("train", "train.json"), ("val", "validation.json"), ("test", "test.json")):
        path = find(folder, f"*{name}")
        for number, item in enumerate(read_json(path, list)):
            where = f"{path.name}: item {number}"
            if not isinstance(item, dict) or not isinstance(item.get("id"), str):
                raise AnnotationError(f"{where}: expected an object with an id, found {item!r}")
            label = re.sub(r"[\[\]]", "", str(item.get("template", "")))
            videos.append(_video(where, f"{item['id']}.webm", label, split, item["id"]))
    return videos, classes


def read_kinetics(folder: Path, settings: ShardSettings) -> VideosAndClasses:
    """Read Kinetics-400, 600 or 700: CSV files of label,youtube_id,time_start,time_end,split.

    A video is named `<youtube_id>_<start>_<end>` with six digits for each time. It is in the source
    folder or up to two folders deeper. Missing videos stay in the list.
    """
    rows = []
    for path in sorted(folder.glob("*.csv")) if folder.is_dir() else [folder]:
        rows += _kinetics_rows(path)
    if not rows:
        raise AnnotationError(f"{folder} contains no CSV files of Kinetics")
    found: dict[str, str] = {}
    wanted = {name for _, name, _, _ in rows}
    _find_videos(Path(settings.source).expanduser(), "", wanted, found)
    if not found:
        raise AnnotationError(
            f"shard.source {settings.source} contains none of the {len(wanted)} videos of {folder},"
            f" for example {min(wanted)}.mp4"
        )
    videos = [
        _video(where, found.get(name, f"{name}.mp4"), label, split, name)
        for where, name, label, split in rows
    ]
    return videos, sorted({label for _, _, label, _ in rows if label})


def read_ucf101(folder: Path, settings: ShardSettings) -> VideosAndClasses:
    """Read UCF101: classInd.txt, trainlist01.txt and testlist01.txt (01 is `shard.fold`)."""
    videos = []
    suffix = f"{settings.fold:02d}.txt"
    for split, name in (("train", f"trainlist{suffix}"), ("val", f"testlist{suffix}")):
        for where, line in read_lines(folder / name):
            # Lines are `class/video.avi`; the train lists append the class's number.
            path = PurePosixPath(checked_path(where, line.split()[0]))
            videos.append(_video(where, str(path), path.parent.name, split, default_key(path.name)))
    class_file = folder / "classInd.txt"
    numbered = []
    for _, line in read_lines(class_file):
        number, _, name = line.partition(" ")
        numbered.append((name, number))
    return videos, in_order(class_file, numbered, first=1)


def read_hmdb51(folder: Path, settings: ShardSettings) -> VideosAndClasses:
    """Read HMDB51: a file `<class>_test_split1.txt` for each class (1 is `shard.fold`).

    The lines are `name flag`; flag 1 means train, 2 means val and 0 means unused.
    """
    videos = []
    suffix = f"_test_split{settings.fold}.txt"
    paths = sorted(folder.glob(f"*{suffix}"))
    if not paths:
        raise AnnotationError(f"{folder} contains no files *{suffix}")
    for path in paths:
        label = path.name.removesuffix(suffix)
        for where, line in read_lines(path):
            name, _, flag = line.rpartition(" ")
            if flag not in ("0", "1", "2"):
                raise AnnotationError(f"{where}: flag is {flag!r}, expected 0, 1 or 2")
            if flag != "0":
                split = "train" if flag == "1" else "val"
                videos.append(_video(where, f"{label}/{name.strip()}", label, split))
    return videos, [path.name.removesuffix(suffix) for path in paths]


def read_moments(folder: Path, settings: ShardSettings) -> VideosAndClasses:
    """Read Moments in Time: the rows of trainingSet.csv are `path,label,yes,no`."""
    videos = []
    for split, name in (("train", "training"), ("val", "validation")):
        for where, row in read_rows(find(folder, f"{name}Set.*")):
            if len(row) < 2:
                raise AnnotationError(f"{where}: expected path,label,yes,no, found {row}")
            videos.append(_video(where, f"{name}/{row[0]}", row[1], split))
    return videos, _categories(folder)


def read_multi_moments(folder: Path, settings: ShardSettings) -> VideosAndClasses:
    """Read Multi-Moments in Time: the rows of trainingSet.csv are `path,class number,...`."""
    videos = []
    classes = _categories(folder)
    for split, name in (("train", "training"), ("val", "validation")):
        for where, row in read_rows(find(folder, f"{name}Set.*")):
            labels = [_class(where, number, classes) for number in row[1:]]
            videos.append(_video(where, row[0], labels, split))
    return videos, classes


def read_lists(folder: Path, settings: ShardSettings) -> VideosAndClasses:
    """Read the list files of TIN, TSM and X-Temporal: lines `path frames label[,label]`.

    There is one file with train, one with val and one with test in its name; some may be missing.
    A path leads to a video or to a folder of frames. category.txt has the names of the classes;
    without it, classes are named by their numbers.
    """
    rows = {}
    for split in ("train", "val", "test"):
        if any(folder.glob(f"*{split}*.txt")):
            lines = read_lines(find(folder, f"*{split}*.txt"))
            rows[split] = [_list_row(where, line) for where, line in lines]
    numbers = [number for split in rows for _, _, labels in rows[split] for number in labels]
    if not numbers:
        raise AnnotationError(f"{folder} contains no list *train*.txt, *val*.txt or *test*.txt")
    category_file = folder / "category.txt"
    if category_file.exists():
        classes = [name for _, name in read_lines(category_file)]
    else:
        classes = [str(number) for number in range(max(map(int, numbers)) + 1)]
    # The authors' scripts write label 0 for every video of a test list without labels.
    if {number for _, _, labels in rows.get("test", []) for number in labels} == {"0"}:
        rows["test"] = [(where, path, []) for where, path, _ in rows["test"]]
    videos = [
        _video(where, path, [_class(where, number, classes) for number in labels], split)
        for split in rows
        for where, path, labels in rows[split]
    ]
    return videos, classes


READERS = {
    "sthv1": read_20bn,
    "sthv2": read_sthv2,
    "jester": read_20bn,
    "kinetics": read_kinetics,
    "ucf101": read_ucf101,
    "hmdb51": read_hmdb51,
    "mit": read_moments,
    "mmit": read_multi_moments,
    "lists": read_lists,
}


def _video(where: str, path: str, labels: str | Sequence[str], split: str, key: str = "") -> Video:
    """Return a video with its path checked and its labels stripped, without repeats."""
    path = checked_path(where, path)
    labels = [labels] if isinstance(labels, str) else labels
    unique = dict.fromkeys(label.strip() for label in labels if label.strip())
    return Video(path, tuple(unique), split, key or default_key(path))


def _categories(folder: Path) -> list[str]:
    """Return the classes of Moments in Time: lines `name,number`."""
    path = find(folder, "*categories.txt")
    numbered = []
    for _, line in read_lines(path):
        name, _, number = line.rpartition(",")
        numbered.append((name, number))
    return in_order(path, numbered)


def _class(where: str, number: str, classes: Sequence[str]) -> str:
    """Return the name of the class with a number that was read at `where`."""
    number = number.strip()
    if not re.fullmatch("[0-9]{1,6}", number) or int(number) >= len(classes):
        raise AnnotationError(
            f"{where}: class number is {number[:20]!r}, expected 0 to {len(classes) - 1}"
        )
    return classes[int(number)]


def _list_row(where: str, line: str) -> tuple[str, str, list[str]]:
    """Return location, path and class numbers of a line `path frames label[,label]`."""
    # A path may contain spaces; a line with fewer than three fields has an empty path.
    path, frames, numbers = ["", "", "", *line.rsplit(maxsplit=2)][-3:]
    labels = numbers.split(",")
    if not frames.isdecimal() or not all(re.fullmatch("[0-9]{1,6}", text) for text in labels):
        raise AnnotationError(f"{where}: expected path frames label[,label], found {line!r}")
    return where, path, labels


def _kinetics_rows(path: Path) -> list[tuple[str, str, str, str]]:
    """Return location, name of the video, label (or an empty text) and split of each row."""
    (_, header), *rows = read_rows(path) or [("", [])]
    missing = {"youtube_id", "time_start", "time_end", "split"} - set(header)
    if missing:
        raise AnnotationError(
            f"{path}: column {min(missing)} is missing, expected"
            " [label,]youtube_id,time_start,time_end,split"
        )
    result = []
    for where, fields in rows:
        row = dict(zip(header, fields, strict=False))
        split = SPLITS.get(row.get("split", "").strip())
        # Times are whole seconds, which some files write as 84.0.
        try:
            start = int(float(row["time_start"]))
            end = int(float(row["time_end"]))
        except (KeyError, ValueError, OverflowError):
            split = None
        if split is None:
            raise AnnotationError(f"{where}: expected {','.join(header)}, found {fields}")
        name = f"{row['youtube_id'].strip()}_{start:06d}_{end:06d}"
        result.append((where, name, row.get("label", ""), split))
    return result


def _find_videos(
    folder: Path, prefix: str, wanted: set[str], found: dict[str, str], depth: int = 1
) -> None:
    """Put the paths of wanted videos, or of folders with their frames, into `found`.

    If there are several of one name, the first in alphabetical order is taken.

    Args:
        folder: the folder to search, together with the folders below it.
        prefix: path of `folder` relative to the source folder; empty or with a `/` at its end.
        wanted: names of videos, without a suffix.
        found: relative paths by name; changed in place.
        depth: level of the entries of `folder`, from 1 to KINETICS_DEPTH.
    """
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name = entry.name if entry.is_dir() else PurePosixPath(entry.name).stem
        if name in wanted:
            found.setdefault(name, prefix + entry.name)
        elif depth < KINETICS_DEPTH and entry.is_dir():
            _find_videos(Path(entry), f"{prefix}{entry.name}/", wanted, found, depth + 1)

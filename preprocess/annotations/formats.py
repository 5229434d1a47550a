"""Annotations of public datasets, read as they are distributed.

Their splits are called train, val (what results are published on) and test (mostly without
labels) here; their classes keep the numbers that the original's checkpoints know them by.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from configs.schema import ShardSettings
from preprocess.annotations.files import find, in_order, read_json, read_lines, read_rows
from preprocess.annotations.labels import AnnotationError, Video, checked_path, default_key

Found = tuple[list[Video], Sequence[str]]
SPLITS = {"train": "train", "val": "val", "test": "test", "validate": "val", "validation": "val"}
MAX_DEPTH = 3  # of Kinetics' videos: split, class, file


def read_format(settings: ShardSettings) -> Found:
    """Return the videos of a public dataset, and its classes in the order of their numbers.

    `shard.annotations` names the folder of its annotation files; without it they lie in the
    source folder.

    Raises:
        AnnotationError: file and line, what was found, what was expected.
    """
    if settings.format not in READERS:
        names = ", ".join(sorted([*READERS, "direction"]))
        raise AnnotationError(f"shard.format {settings.format!r} is unknown; there are {names}")
    folder = Path(settings.annotations or settings.source).expanduser()
    if not folder.exists():
        raise AnnotationError(f"shard.annotations {folder} does not exist")
    return READERS[settings.format](folder, settings)


def read_20bn(folder: Path, settings: ShardSettings) -> Found:
    """Read Something-Something v1 or Jester: lines `id;label`, frames in folders called by id.

    The classes are in alphabetical order, as TIN and TSM number them.
    """
    videos = []
    for split, name in (("train", "train.csv"), ("val", "validation.csv"), ("test", "test.csv")):
        for where, line in read_lines(find(folder, f"*{name}")):
            key, _, label = line.partition(";")
            videos.append(_video(where, key, label, split, key))
    return videos, sorted(line for _, line in read_lines(find(folder, "*labels.csv")))


def read_sthv2(folder: Path, settings: ShardSettings) -> Found:
    """Read Something-Something v2: json files, videos `id.webm`."""
    path = find(folder, "*labels.json")
    classes = in_order(path, list(read_json(path, dict).items()))
    videos = []
    for split, name in (("train", "train.json"), ("val", "validation.json"), ("test", "test.json")):
        path = find(folder, f"*{name}")
        for number, item in enumerate(read_json(path, list)):
            where = f"{path.name}: item {number}"
            if not isinstance(item, dict) or not isinstance(item.get("id"), str):
                raise AnnotationError(f"{where}: found {item!r}, expected an object with an id")
            label = re.sub(r"[\[\]]", "", str(item.get("template", "")))
            videos.append(_video(where, f"{item['id']}.webm", label, split, item["id"]))
    return videos, classes


def read_kinetics(folder: Path, settings: ShardSettings) -> Found:
    """Read Kinetics-400, 600 or 700: csv files of label,youtube_id,time_start,time_end,split.

    A video is called `<youtube_id>_<start>_<end>`, with six digits for each time, and lies in the
    source folder or up to two folders deeper. Those that are missing stay in the list.
    """
    rows = []
    for path in sorted(folder.glob("*.csv")) if folder.is_dir() else [folder]:
        rows += _kinetics_rows(path)
    if not rows:
        raise AnnotationError(f"{folder} has no csv files of Kinetics")
    places: dict[str, str] = {}
    wanted = {name for _, name, _, _ in rows}
    _find_videos(Path(settings.source).expanduser(), "", wanted, places)
    if not places:
        raise AnnotationError(
            f"{settings.source} has none of the {len(wanted)} videos of {folder}, such as"
            f" {min(wanted)}.mp4"
        )
    videos = [
        _video(where, places.get(name, f"{name}.mp4"), label, split, name)
        for where, name, label, split in rows
    ]
    return videos, sorted({label for _, _, label, _ in rows if label})


def read_ucf101(folder: Path, settings: ShardSettings) -> Found:
    """Read UCF101: classInd.txt, trainlist01.txt and testlist01.txt (01 is `shard.fold`)."""
    videos, fold = [], f"{settings.fold:02d}.txt"
    for split, name in (("train", f"trainlist{fold}"), ("val", f"testlist{fold}")):
        for where, line in read_lines(folder / name):
            path = PurePosixPath(line.split()[0])  # the train list has the class's number too
            videos.append(_video(where, str(path), path.parent.name, split, default_key(path.name)))
    path = folder / "classInd.txt"  # lines `number name`
    return videos, in_order(path, [line.partition(" ")[::-2] for _, line in read_lines(path)], 1)


def read_hmdb51(folder: Path, settings: ShardSettings) -> Found:
    """Read HMDB51: a file `<class>_test_split1.txt` for each class (1 is `shard.fold`).

    Its lines are `name flag`; flag 1 is train, 2 is val and 0 is neither.
    """
    videos, suffix = [], f"_test_split{settings.fold}.txt"
    paths = sorted(folder.glob(f"*{suffix}"))
    if not paths:
        raise AnnotationError(f"{folder} has no files *{suffix}")
    for path in paths:
        label = path.name.removesuffix(suffix)
        for where, line in read_lines(path):
            name, _, flag = line.rpartition(" ")
            if flag not in ("0", "1", "2"):
                raise AnnotationError(f"{where}: flag {flag!r} is none of 0, 1 and 2")
            if flag != "0":
                split = "train" if flag == "1" else "val"
                videos.append(_video(where, f"{label}/{name.strip()}", label, split))
    return videos, [path.name.removesuffix(suffix) for path in paths]


def read_moments(folder: Path, settings: ShardSettings) -> Found:
    """Read Moments in Time: rows of trainingSet.csv are `path,label,yes,no`."""
    videos = []
    for split, name in (("train", "training"), ("val", "validation")):
        for where, row in read_rows(find(folder, f"{name}Set.*")):
            if len(row) < 2:
                raise AnnotationError(f"{where}: found {row}, expected path,label,yes,no")
            videos.append(_video(where, f"{name}/{row[0]}", row[1], split))
    return videos, _categories(folder)


def read_multi_moments(folder: Path, settings: ShardSettings) -> Found:
    """Read Multi-Moments in Time: rows of trainingSet.csv are `path,class number,...`."""
    videos, classes = [], _categories(folder)
    for split, name in (("train", "training"), ("val", "validation")):
        for where, row in read_rows(find(folder, f"{name}Set.*")):
            labels = [_class(where, number, classes) for number in row[1:]]
            videos.append(_video(where, row[0], labels, split))
    return videos, classes


def read_lists(folder: Path, settings: ShardSettings) -> Found:
    """Read the list files of TIN, TSM and X-Temporal: lines `path frames label[,label]`.

    One file each has train, val and test in its name, of which some may be absent; a path is a
    video or a folder of frames. category.txt names the classes; without it they are numbers. A
    test list whose labels are all 0 has none: that is how the scripts write what is unknown.
    """
    rows = {}
    for split in ("train", "val", "test"):
        if any(folder.glob(f"*{split}*.txt")):
            rows[split] = [_list_row(*line) for line in read_lines(find(folder, f"*{split}*.txt"))]
    numbers = [number for lines in rows.values() for line in lines for number in line[2]]
    if not numbers:
        raise AnnotationError(f"{folder} has no list *train*.txt, *val*.txt or *test*.txt")
    named = folder / "category.txt"
    if named.exists():
        classes = [name for _, name in read_lines(named)]
    else:
        classes = [str(number) for number in range(max(map(int, numbers)) + 1)]
    if {number for line in rows.get("test", []) for number in line[2]} == {"0"}:
        rows["test"] = [(where, path, []) for where, path, _ in rows["test"]]
    videos = [
        _video(where, path, [_class(where, number, classes) for number in labels], split)
        for split, lines in rows.items()
        for where, path, labels in lines
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
    path = checked_path(where, path)
    labels = [labels] if isinstance(labels, str) else labels
    unique = dict.fromkeys(label.strip() for label in labels if label.strip())
    return Video(path, tuple(unique), split, key or default_key(path))


def _categories(folder: Path) -> list[str]:
    """Return the classes of Moments in Time: lines `name,number`."""
    path = find(folder, "*categories.txt")
    return in_order(path, [line.rpartition(",")[::2] for _, line in read_lines(path)])


def _class(where: str, number: str, classes: Sequence[str]) -> str:
    number = number.strip()
    if not number.isdecimal() or int(number) >= len(classes):
        raise AnnotationError(f"{where}: class {number!r} is none of 0 to {len(classes) - 1}")
    return classes[int(number)]


def _list_row(where: str, line: str) -> tuple[str, str, list[str]]:
    """Return place, path and class numbers of a line `path frames label[,label]`."""
    path, frames, numbers = ["", "", "", *line.rsplit(maxsplit=2)][-3:]
    labels = numbers.split(",")
    if not frames.isdecimal() or not all(re.fullmatch("[0-9]{1,6}", text) for text in labels):
        raise AnnotationError(f"{where}: found {line!r}, expected path frames label[,label]")
    return where, path, labels


def _kinetics_rows(path: Path) -> list[tuple[str, str, str, str]]:
    """Return place, name of the video, label (or nothing) and split of each row."""
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
        try:
            start, end = (int(float(row[name])) for name in ("time_start", "time_end"))
        except (KeyError, ValueError, OverflowError):
            split = None
        if split is None:
            raise AnnotationError(f"{where}: found {fields}, expected {','.join(header)}")
        name = f"{row['youtube_id'].strip()}_{start:06d}_{end:06d}"
        result.append((where, name, row.get("label", ""), split))
    return result


def _find_videos(
    folder: Path, prefix: str, wanted: set[str], places: dict[str, str], depth: int = 1
) -> None:
    """Note where the wanted videos, or folders of their frames, lie; the first in order counts."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name = entry.name if entry.is_dir() else PurePosixPath(entry.name).stem
        if name in wanted:
            places.setdefault(name, prefix + entry.name)
        elif depth < MAX_DEPTH and entry.is_dir():
            _find_videos(Path(entry), f"{prefix}{entry.name}/", wanted, places, depth + 1)

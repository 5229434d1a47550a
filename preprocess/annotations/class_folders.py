"""Videos in a folder per class, with or without folders of splits above the classes."""

import os
from pathlib import Path

from preprocess.annotations.labels import AnnotationError, Video, default_key

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp .ogv .ts .gif".split()
)
FRAME_SUFFIXES = frozenset((".jpg", ".jpeg"))
SPLIT_FOLDERS = frozenset(("train", "val", "validation", "test"))
MAX_DEPTH = 3
"""How many folders may lie between the folder of a class and a video."""


def read_folders(source: Path) -> list[Video]:
    """Return the videos and frame folders in a source that has one folder per class.

    If the folders at the top are named train, val, validation or test, they are the splits, and
    the folders of the classes are inside them. All of this may lie one or more folders deeper.

    Raises:
        AnnotationError: there are no videos, or folders of splits and others are mixed.
    """
    videos = []
    for split, folder in _class_folders(source, _top(source)):
        label = Path(folder).name
        for path in _videos(source, folder):
            videos.append(Video(path, (label,), split, default_key(path)))
    if not videos:
        flat = [entry for entry in os.scandir(source) if _is_video(entry)]
        found = f"{len(flat)} videos lie directly in the folder. " if flat else ""
        raise AnnotationError(
            f"{source} contains no videos in folders of classes (CLASS/VIDEO.mp4). {found}Move the"
            " videos into a folder per class, or give a labels CSV with --labels or a format with"
            " --dataset."
        )
    return videos


def _top(source: Path) -> str:
    """Return the path from the source to the folder that the classes or splits lie in.

    It is the source itself, or the innermost of single folders that contain nothing but folders.
    """
    top = ""
    while len(inside := _subfolders(source, top)) == 1:
        inner = _joined(top, inside[0])
        deeper = _subfolders(source, inner)
        # The only folder is a class, or a split, if it holds videos or folders of frames.
        is_class = _has_media(source / inner) or any(
            _has_frames(source / inner / d) for d in deeper
        )
        if is_class or not deeper or inside[0] in SPLIT_FOLDERS:
            break
        top = inner
    return top


def _class_folders(source: Path, top: str) -> list[tuple[str, str]]:
    """Return the split (empty without one) and the path of each folder of a class.

    Raises:
        AnnotationError: only some of the folders are named as splits.
    """
    names = _subfolders(source, top)
    splits = [name for name in names if name in SPLIT_FOLDERS]
    others = [name for name in names if name not in SPLIT_FOLDERS]
    others = [name for name in others if next(iter(_videos(source, _joined(top, name))), None)]
    if "train" in splits and others:
        raise AnnotationError(
            f"{source / top} has a folder train, which is a split, and a folder {others[0]}, which"
            " is not; expected only the folders train, val, validation and test, or only folders"
            f" of classes. Move {others[0]} away, or give a labels CSV."
        )
    if not splits or others:
        return [("", _joined(top, name)) for name in names]
    return [
        (split, _joined(top, split, name))
        for split in splits
        for name in _subfolders(source, _joined(top, split))
    ]


def _videos(source: Path, folder: str, depth: int = MAX_DEPTH) -> list[str]:
    """Return the paths of the videos and frame folders of a class, up to `depth` folders down."""
    found = []
    for entry in sorted(os.scandir(source / folder), key=lambda entry: entry.name):
        path = _joined(folder, entry.name)
        if entry.name.startswith("."):
            continue
        if _is_video(entry):
            found.append(path)
        elif entry.is_dir():
            # A folder of frames is a video. Otherwise look for videos deeper inside.
            is_video = not depth or _has_frames(source / path)
            inside = [] if is_video else _videos(source, path, depth - 1)
            found += inside or [path]
    return found


def _is_video(entry: os.DirEntry[str]) -> bool:
    is_hidden = entry.name.startswith(".")
    return not is_hidden and Path(entry.name).suffix.lower() in VIDEO_SUFFIXES


def _has_media(folder: Path) -> bool:
    """Return whether a folder has videos or frames directly in it."""
    return _has_frames(folder) or any(_is_video(entry) for entry in os.scandir(folder))


def _has_frames(folder: Path) -> bool:
    return any(Path(entry.name).suffix.lower() in FRAME_SUFFIXES for entry in os.scandir(folder))


def _joined(*parts: str) -> str:
    return "/".join(filter(None, parts))


def _subfolders(source: Path, folder: str) -> list[str]:
    """Return the names of the visible folders in a folder, sorted."""
    return sorted(
        entry.name
        for entry in os.scandir(source / folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )

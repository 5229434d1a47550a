"""The files of finished predictions, which are joined from their parts."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from configs.files import atomic_file
from configs.load import ConfigError
from tin.deploy.parts import Part, load_part, part_path, unusable

PREDICTIONS = "predictions"
SCORES = "scores.npy"
FEATURES = "features.npy"
KEYS = "keys.csv"
BAD = "bad.csv"


def join_parts(
    folder: Path,
    num_parts: int,
    keys: Sequence[str],
    labels: Callable[[int], Sequence[str]],
    classes: Sequence[str],
    kind: str,
    multi_label: bool,
) -> dict[str, Any]:
    """Write the files of all parts together, one part in memory at a time; return the metrics.

    With several labels per video, the only metric is the mean average precision over videos.

    Args:
        folder: folder of the predictions.
        num_parts: number of parts, all of which are finished.
        keys: key of each video.
        labels: returns the labels of a video.
        classes: names of the classes.
        kind: csv or parquet.
        multi_label: whether a video may have several labels.

    Raises:
        PartError: a part is missing or damaged.
    """

    def parts() -> Iterator[Part]:
        return _parts(folder, num_parts, len(keys), len(classes))

    def usable() -> Iterator[Part]:
        return (part for part in parts() if len(part.rows))

    first = next(usable(), None)  # it tells the shapes of all
    columns = _columns(first.best.shape[1] if first is not None else 0)
    rows = (
        _row(part, place, keys, labels, classes)
        for part in parts()
        for place in range(len(part.rows))
    )
    if kind == "csv":
        _write_csv(folder / f"{PREDICTIONS}.csv", columns, rows)
    else:
        _write_parquet(folder / f"{PREDICTIONS}.parquet", columns, rows)
    num_rows = sum(len(part.rows) for part in parts())
    if first is not None and first.scores.size:
        _write_array(folder / SCORES, num_rows, (part.scores for part in usable()))
    if first is not None and first.features.size:
        _write_array(
            folder / FEATURES, num_rows, (part.features for part in parts() if len(part.rows))
        )
    _write_csv(folder / KEYS, ["key"], ([keys[row]] for part in parts() for row in part.rows))
    bad = (
        [keys[row], "yes" if predicted else "no", reason]
        for part in parts()
        for row, predicted, reason in zip(
            part.bad_rows, part.bad_predicted, part.bad_reasons, strict=True
        )
    )
    _write_csv(folder / BAD, ["key", "predicted", "reason"], bad)
    return _metrics(parts(), multi_label)


def _parts(folder: Path, num_parts: int, num_videos: int, num_classes: int) -> Iterator[Part]:
    """Yield all parts; together they must have each video once, in order.

    Raises:
        PartError: a part is missing or damaged, or it is a part of something else.
    """
    end = 0
    shapes: tuple | None = None
    for number in range(num_parts):
        path = part_path(folder, number)
        part = load_part(path)
        # The videos follow those of the part before, without a gap.
        unpredicted = part.bad_rows[~part.bad_predicted]
        rows = np.sort(np.concatenate([part.rows, unpredicted]))
        if not np.array_equal(rows, np.arange(end, end + len(rows))):
            raise unusable(path, f"its videos are not those from {end} on")
        end += len(rows)
        if not np.isin(part.bad_rows, rows).all() or (np.diff(part.rows) <= 0).any():
            raise unusable(path, "its videos are not in order")
        if part.best.size and not (part.best.min() >= 0 and part.best.max() < num_classes):
            raise unusable(path, f"a class is not one of {num_classes}")
        # All arrays of the parts are joined, so they have equal shapes.
        if len(part.rows):
            own = (part.best.shape[1:], part.scores.shape[1:], part.features.shape[1:])
            shapes = shapes or own
            if own != shapes:
                raise unusable(path, f"found arrays of shapes {own}, expected {shapes}")
        yield part
    if end != num_videos:
        raise unusable(path, f"the parts have {end} videos, expected {num_videos}")


def _metrics(parts: Iterator[Part], multi_label: bool) -> dict[str, Any]:
    """Return how many videos there are, and the metrics of those with labels."""
    counts = {"num_predicted": 0, "num_bad": 0}
    ranks = [np.zeros(0, np.int64)]
    confidences = [np.zeros(0)]
    precisions = [np.zeros(0)]
    for part in parts:
        counts["num_predicted"] += len(part.rows)
        counts["num_bad"] += int((~part.bad_predicted).sum())
        labeled = part.label_ranks >= 0
        ranks.append(part.label_ranks[labeled])
        confidences.append(part.best_scores[labeled, 0])
        precisions.append(part.precisions[labeled])
    rank = np.concatenate(ranks)
    counts["num_labeled"] = len(rank)
    if not len(rank):
        return {**counts, "metrics": {}}
    if multi_label:
        # The mean over classes needs the scores of all videos at once; `tin test` computes it.
        return {**counts, "metrics": {"map_sample": float(np.concatenate(precisions).mean())}}
    metrics = {
        "top1": float((rank < 1).mean()),
        "top5": float((rank < 5).mean()),
        "ece": calibration_error(np.concatenate(confidences), rank < 1),
    }
    return {**counts, "metrics": metrics}


def calibration_error(confidences: np.ndarray, right: np.ndarray, num_bins: int = 15) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy.

    The videos are put into bins of equal width by the score of their best class ``(N,)``. The gap
    of a bin is the distance of its mean score from its share of ``right`` ``(N,)`` videos, and the
    bins count by their videos.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv:1706.04599,
    section 2, with 15 bins.
    """
    # The bins are (0, 1/15], (1/15, 2/15] and so on.
    bins = np.clip(np.ceil(confidences * num_bins) - 1, 0, num_bins - 1).astype(np.int64)
    confidence_sums = np.bincount(bins, confidences, num_bins)
    right_sums = np.bincount(bins, right, num_bins)
    return float(np.abs(confidence_sums - right_sums).sum() / len(confidences))


def _columns(num_best: int) -> list[str]:
    ranked = [name for rank in range(1, num_best + 1) for name in (f"class{rank}", f"score{rank}")]
    return ["key", "labels", *ranked]


def _row(
    part: Part,
    place: int,
    keys: Sequence[str],
    labels: Callable[[int], Sequence[str]],
    classes: Sequence[str],
) -> list[Any]:
    """Return the row of a video in the predictions."""
    row = int(part.rows[place])
    values: list[Any] = [keys[row], ";".join(labels(row))]
    for name, score in zip(part.best[place], part.best_scores[place], strict=True):
        values += [classes[name], round(float(score), 6)]
    return values


def _write_csv(path: Path, columns: Sequence[str], rows: Iterator[list[Any]]) -> None:
    with atomic_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        text.detach()


def _write_parquet(path: Path, columns: Sequence[str], rows: Iterator[list[Any]]) -> None:
    """Write the rows in groups, so that few are in memory."""
    import pyarrow as pa
    from pyarrow import parquet

    kinds = [pa.float64() if name.startswith("score") else pa.string() for name in columns]
    schema = pa.schema(list(zip(columns, kinds, strict=True)))
    with atomic_file(path) as file, parquet.ParquetWriter(file, schema) as writer:
        while group := [row for _, row in zip(range(1 << 14), rows, strict=False)]:
            arrays = [pa.array(list(column), kind) for column, kind in
                      zip(zip(*group, strict=True), kinds, strict=True)]  # fmt: skip
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _write_array(path: Path, num_rows: int, arrays: Iterator[np.ndarray]) -> None:
    """Write an array part by part, so that it is never in memory as a whole."""

    def write(file: BinaryIO, array: np.ndarray) -> None:
        file.write(np.ascontiguousarray(array).tobytes())

    with atomic_file(path) as file:
        first = next(arrays)
        header = {
            "descr": np.lib.format.dtype_to_descr(first.dtype),
            "fortran_order": False,
            "shape": (num_rows, *first.shape[1:]),
        }
        np.lib.format.write_array_header_1_0(file, header)
        write(file, first)
        for array in arrays:
            write(file, array)


def check_format(kind: str) -> None:
    """Raise ConfigError if the package that writes a format is missing."""
    if kind == "parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise ConfigError(
                "predict.format parquet needs the package pyarrow; install tin-video[parquet], or"
                " set predict.format=csv"
            ) from None

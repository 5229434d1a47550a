"""The details of one run: tests, confused pairs, heat map, mistakes with frames, offsets."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from configs.errors import TinError
from configs.load import dataset_path
from configs.schema import Config
from configs.small_files import DamagedFileError
from pipeline.folds import open_part
from pipeline.plan import plan_evaluation
from pipeline.store import FrameStore
from preprocess.shards import Split
from tin.bench.diagnosis import FILE, Diagnosis, load
from tin.evaluation.description import parsed_name
from tin.evaluation.scores import ScoresError, load_result
from tin.reports.classes import ConfusedPair, confused_pairs, confusion
from tin.reports.curves import offset_curves
from tin.reports.measured import Measured, Mistake
from tin.reports.recorded import config_of, read_offsets, tests_of
from tin.reports.strips import data_uri
from tin.runs.folder import Run

log = logging.getLogger(__name__)

FRAME_SIDE = 72  # pixels of a frame in a strip
MAX_FRAMES = 16  # of a strip; of longer clips, evenly spaced frames are shown


@dataclass(frozen=True)
class ShownMistake:
    """A mistake with the frames that the model saw."""

    mistake: Mistake
    strip: str
    """JPEG as a data URI; empty if the dataset cannot be read."""


@dataclass(frozen=True)
class Details:
    """What the page shows of a run beside its row and its curves."""

    tests: list[dict[str, str]]
    """A row for each test by column, oldest first."""
    problems: list[str]
    """Tests whose files cannot be used."""
    test: str
    """Name of the newest test, which the rest is about; empty without one."""
    pairs: list[ConfusedPair]
    mistakes: list[ShownMistake]
    data: dict[str, Any]
    """Numbers of the plots: confusion and offsets."""
    diagnosis: Diagnosis | None = None
    """What `tin doctor` has measured of the run; None if it has not."""


def details_of(run_dir: Path, measured: Measured | None, problems: Sequence[str]) -> Details:
    """Return the details of a run, of its newest test that can be read."""
    run = Run(run_dir)
    tests = []
    for folder in tests_of(run):
        try:
            tests.append(_test_row(folder, load_result(folder)))
        except ScoresError:
            continue  # the row of the test in the table reports the error
    data: dict[str, Any] = {"offsets": offset_curves(read_offsets(run_dir))}
    found = _diagnosis(run_dir)
    if measured is None:
        return Details(tests, list(problems), "", [], [], data, found)
    data["confusion"] = confusion(measured)
    data["classes"] = list(measured.classes)
    strips = _strips(run, measured)
    shown = [ShownMistake(mistake, strips.get(mistake.key, "")) for mistake in measured.wrong]
    pairs = confused_pairs(measured)
    return Details(tests, list(problems), measured.folder.name, pairs, shown, data, found)


def _diagnosis(run_dir: Path) -> Diagnosis | None:
    """Return what `tin doctor` has found in a run; None without a file that can be read."""
    try:
        return load(run_dir / FILE)
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        log.warning("%s", error)
        return None


def _test_row(folder: Path, result: dict[str, Any]) -> dict[str, str]:
    """Return a row of the table of tests by column."""
    measures = result.get("metrics")
    if not isinstance(measures, dict):
        measures = {}
    row = {"test": folder.name}
    for name, value in measures.items():
        if name != "loss" and isinstance(value, float):
            row[f"{name} %"] = f"{100 * value:.2f}"
    if isinstance(measures.get("loss"), float):
        row["loss"] = f"{measures['loss']:.4f}"
    for name in ("checkpoint", "num_videos", "clips_per_s", "seconds", "date"):
        row[name] = str(result.get(name, ""))
    missing = result.get("missing")
    row["left out"] = str(len(missing)) if isinstance(missing, list) else ""
    return row


def _strips(run: Run, measured: Measured) -> dict[str, str]:
    """Return the strip of each mistake by key; none if the dataset cannot be read here."""
    try:
        config = _tested_config(config_of(run), measured.folder)
        split = open_part(
            dataset_path(config.data.dataset), config.data.test_split, config.data, training=False
        )
        rows = {key: row for row, key in enumerate(split.keys())}
        store = FrameStore(split, 1)
        try:
            return {
                mistake.key: _strip(store, split, config, rows[mistake.key])
                for mistake in measured.wrong
                if mistake.key in rows
            }
        finally:
            store.close()
    except (TinError, OSError, ValueError, KeyError) as error:
        log.info("%s: the frames of its mistakes cannot be shown: %s", run.path, error)
        return {}


def _tested_config(config: Config, folder: Path) -> Config:
    """Return the settings with the split and the crop that the name of a test tells."""
    name = parsed_name(folder.name)
    if name is None:
        return config
    data = config.data.model_copy(update={"test_split": name.split})
    one_view = config.test.model_copy(update={"clips": 1, "crops": 1, "crop": name.crop})
    return config.model_copy(update={"data": data, "test": one_view})


def _strip(store: FrameStore, split: Split, config: Config, row: int) -> str:
    """Return the frames of the first clip of a video side by side; empty if none can be read."""
    plan = plan_evaluation(split, config, np.array([row]))
    frames = plan.frames[0]
    if len(frames) > MAX_FRAMES:
        frames = frames[np.linspace(0, len(frames) - 1, MAX_FRAMES).round().astype(int)]
    read = store.read(row, frames.tolist())
    if not read.jpegs:
        return ""
    top, left, bottom, right = plan.regions[0][0].tolist()
    strip = Image.new("RGB", (len(read.jpegs) * FRAME_SIDE, FRAME_SIDE))
    for place, jpeg in enumerate(read.jpegs):
        image = Image.fromarray(simplejpeg.decode_jpeg(bytes(jpeg)))
        box = (left, top, min(right, image.width), min(bottom, image.height))
        frame = image.resize((FRAME_SIDE, FRAME_SIDE), Image.Resampling.BILINEAR, box)
        strip.paste(frame, (place * FRAME_SIDE, 0))
    return data_uri(strip)

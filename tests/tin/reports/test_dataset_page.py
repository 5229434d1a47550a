"""The page of a dataset shows the clips that training sees, and loads nothing else."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_dataset import CLASSES, color, write_dataset

from configs.load import ConfigError, load
from pipeline.batches import MEAN, STD
from pipeline.loader import ClipLoader
from pipeline.store import FrameStore
from preprocess.shards import open_split
from tin.reports.dataset_page import training_clips, write_dataset_page
from tin.training.augment import augment

SETTINGS = (
    "clip.num_segments=4", "clip.crop=32", "clip.resize=32", "train.batch=8", "run.threads=1",
    "augment.flip=random", "augment.color_jitter=0.4",
)  # fmt: skip


def test_the_clips_are_those_of_training(tmp_path):
    folder = write_dataset(tmp_path / "d", [9] * 8, sizes=((48, 40),))
    config = load(None, SETTINGS)
    loader = ClipLoader(folder, "train", config, training=True)
    (batch,) = loader.epoch(1)
    loader.close()
    x, _ = augment(batch.x, batch.labels, batch.draws, config, 1, len(CLASSES), 0)
    mean = torch.tensor(MEAN)[:, None, None]
    std = torch.tensor(STD)[:, None, None]
    expected = ((x * std + mean).clamp(0, 1) * 255).permute(0, 1, 3, 4, 2).numpy()
    split = open_split(folder, "train")
    store = FrameStore(split, readers=1)
    found = training_clips(split, store, config, batch.clips.tolist(), 1)
    store.close()
    assert found.shape == (8, 4, 32, 32, 3)
    assert np.abs(found - expected).mean() < 1.5  # gray levels: two resizers


def test_a_page_has_a_section_for_each_class_and_loads_nothing(tmp_path):
    folder = write_dataset(tmp_path / "d", [9] * 6)
    out = tmp_path / "page.html"
    write_dataset_page(folder, load(None, SETTINGS), out)
    text = out.read_text()
    assert re.findall("<h2>(.*?)</h2>", text) == list(CLASSES)
    assert "train: 2" in text and "half of the clips are mirrored" in text
    assert not re.search(r"https?://|<script", text)
    pictures = re.findall('src="data:image/jpeg;base64,([^"]+)" alt="frames of video0 as st', text)
    assert len(re.findall("<img ", text)) == 6 * 3  # stored, and two epochs
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures[0]))))
    # Eight frames of 32x24 pixels, 80 pixels high; the left half of a frame has its color.
    assert picture.shape == (80, 8 * 107, 3)
    assert np.abs(picture[40, 20] - color(0, 0).astype(int)).max() < 16


def test_a_dataset_of_flow_is_rejected(tmp_path):
    folder = write_dataset(tmp_path / "d", [9] * 4, modality="flow")
    with pytest.raises(ConfigError, match="is a dataset of flow; .* shows datasets of rgb"):
        write_dataset_page(folder, load(None, SETTINGS), tmp_path / "page.html")

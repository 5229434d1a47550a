"""Every recipe: its model is built, trained for two steps and tested on small images."""

import json
import re
from pathlib import Path

import pytest
import torch
from synthetic_dataset import CLASSES, write_dataset

from configs.load import RECIPES, load
from pipeline.batches import FLOW_MEAN, FLOW_STD, batch_channels
from pipeline.loader import ClipLoader
from tin.evaluation.evaluate import evaluate
from tin.models.network import build_model, train_mode
from tin.ranks.distributed import start
from tin.training.augment import augment
from tin.training.optim import build_optimizer, learning_rate, loss, set_learning_rate

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
SMALL = (
    "model.init=none", "clip.crop=32", "clip.resize=32", "test.crop=0", "test.clips=1",
    "test.crops=1", "test.batch=2", "train.batch=2", "optim.lr_batch=2", "run.threads=1",
    "run.readers=2", "run.prefetch=1", "data.train_split=train", "data.test_split=train",
)  # fmt: skip


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> dict[str, Path]:
    """Return a dataset of RGB with one label per video, one with several, and one of flow."""
    folder = tmp_path_factory.mktemp("data")
    both = (("left", "still"), ("right",))
    return {
        "one": write_dataset(folder / "one", [9] * 4),
        "several": write_dataset(folder / "several", [9] * 4, labels=both, multi_label=True),
        "flow": write_dataset(folder / "flow", [9] * 4, modality="flow"),
    }


@pytest.fixture(scope="module")
def world():
    with start("cpu") as world:
        yield world


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_two_steps_and_is_tested(name, datasets, world):
    config = load(name, SMALL)
    kind = "several" if config.train.loss == "bce" else "one"
    folder = datasets["flow" if config.clip.modality == "flow" else kind]
    model = build_model(config, len(CLASSES))
    optimizer = build_optimizer(model, config)
    train_mode(model, config.train.bn)
    before = model.fc.weight.detach().clone()
    loader = ClipLoader(folder, "train", config, training=True)
    steps = loader.epoch(0)
    for step in range(2):
        batch = next(steps)
        T = config.clip.num_segments
        x, targets = augment(batch.x, batch.labels, batch.clips, config, 0, len(CLASSES), step)
        assert x.shape == (2, T, batch_channels(config.clip), 32, 32)
        value = loss(model(x), targets, config)
        assert torch.isfinite(value)
        value.backward()
        set_learning_rate(optimizer, learning_rate(config, step, loader.num_steps))
        optimizer.step()
        optimizer.zero_grad()
    loader.close()
    assert not torch.equal(before, model.fc.weight)
    tested = ClipLoader(folder, "train", config, training=False)
    scores = evaluate(model, tested, world, "float32", config.train.loss)
    tested.close()
    assert scores.scores.shape == (4, 1, 3)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_names_its_source_and_fits_its_name(name):
    config = load(name)
    assert config.source
    assert config.data.dataset
    assert config.train.batch == config.optim.lr_batch  # else lr is not the source's
    several = config.train.loss == "bce"
    assert config.shard.multi_label == several
    if config.published is not None:
        assert config.published_metric == ("map_sample" if several else "top1")
    if name.startswith(("tin_", "tsm_", "tsn_")):
        kind, depth, frames, *_ = name.split("_")
        assert {"tin": "interlace", "tsm": "shift", "tsn": "none"}[kind] == config.model.temporal
        assert config.model.arch == f"resnet{depth[1:]}"
        assert config.clip.num_segments == int(frames[:-1])
        assert name.split("_")[3] == config.data.dataset.removesuffix("_flow")
        assert name.endswith("_flow") == (config.clip.modality == "flow")


def test_the_recipe_of_flow_has_the_crops_and_the_normalization_of_the_original(shared):
    table = json.loads((shared / "reference/more/modality.json").read_text())
    config = load("tsm_r50_8f_kinetics400_flow")
    assert list(config.augment.scales) == table["flow_and_rgbdiff_multi_scale"]
    assert table["flow_input_mean"] == [FLOW_MEAN]
    assert table["flow_input_std"] == [FLOW_STD]


def test_the_recipes_average_what_their_sources_average():
    for name in NAMES:
        config = load(name)
        logits = "X-Temporal" in config.source or "mit-han-lab" in config.source
        assert config.test.average == ("logits" if logits else "scores"), name


def test_the_dense_recipes_span_64_frames():
    for name in NAMES:
        config = load(name)
        if name.endswith("_dense"):
            assert config.clip.num_segments * config.clip.stride == 64
            assert (config.test.clips, config.test.crops, config.test.crop) == (10, 3, 256)


def test_flips_swap_the_labels_if_left_and_right_are_classes():
    for name in NAMES:
        config = load(name)
        if config.data.dataset in ("sthv1", "sthv2", "jester"):
            assert config.augment.flip in ("none", "labels"), name


def test_the_page_names_recipes_settings_and_all_defects():
    text = PAGE.read_text()
    for name in re.findall(r"`(t\w\w_r\d+_\w+)`", text):
        assert name in NAMES
    config = load(None)
    sections = "shard|data|clip|augment|model|optim|train|test|run"
    settings = re.findall(rf"`[^`]*?\b({sections})\.([a-z_]+)(?=[=`])", text)
    settings = [named for named in settings if named[1] not in ("csv", "json", "txt")]
    assert len(settings) > 40
    for section, key in settings:
        assert key in type(getattr(config, section)).model_fields, f"{section}.{key}"
    rows = re.findall(r"^\| (\d+b?) \|", text, re.MULTILINE)
    assert rows == [*map(str, range(1, 17)), "16b", *map(str, range(17, 31))]


def test_the_page_lists_the_published_number_of_each_recipe():
    text = PAGE.read_text()
    for name in NAMES:
        published = load(name).published
        if published is not None and "flip_randaugment" not in name:
            assert re.search(rf"`{name}`.*{100 * published:.4g}", text), name

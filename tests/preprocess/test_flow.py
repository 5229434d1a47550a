"""Datasets of optical flow: computed by DIS, and read from folders of flow images."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from synthetic_videos import shard_config, write_clip

from configs.load import ConfigError, load, read_yaml
from pipeline.loader import ClipLoader
from pipeline.plan import plan_evaluation
from preprocess.convert import shard
from preprocess.decode import BadVideoError
from preprocess.flow import BOUND, compute_flow, read_flow_folder
from preprocess.frame_folders import encode_folder
from preprocess.shards import open_split, read_info
from preprocess.verify import verify
from tin.models.clip_input import normalized

pytest.importorskip("cv2", reason="the extra `flow` is not installed")
SETTINGS = load(None, ["shard.flow=folders", "shard.quality=100"]).shard


def texture(shift: tuple[int, int], side: int = 96) -> np.ndarray:
    """Return a smooth random picture that is moved by `shift` (x, y) pixels."""
    draw = np.random.default_rng(3).random((12, 12, 3))
    big = Image.fromarray((255 * draw).astype(np.uint8)).resize(
        (256, 256), Image.Resampling.BICUBIC
    )
    x, y = shift
    return np.asarray(big)[80 - y : 80 - y + side, 80 - x : 80 - x + side]


def moving(folder: Path, step: tuple[int, int], num_frames: int = 4) -> Path:
    """Write a folder of frames whose picture moves by `step` (x, y) from frame to frame."""
    folder.mkdir(parents=True)
    for i in range(num_frames):
        image = Image.fromarray(texture((i * step[0], i * step[1])))
        image.save(folder / f"img_{i:05d}.jpg", quality=95)
    return folder


def decoded(jpegs: list[bytes]) -> np.ndarray:
    """Return gray JPEGs as ``(N, H, W)``."""
    return np.stack([simplejpeg.decode_jpeg(jpeg, colorspace="GRAY")[..., 0] for jpeg in jpegs])


def gray(path: Path, level: int, size: tuple[int, int] = (20, 16)) -> None:
    Image.new("L", size, level).save(path, quality=100)


@pytest.mark.parametrize("step", [(3, 0), (0, -2), (-4, 2)])
def test_computed_flow_is_the_motion_of_the_picture(step, tmp_path):
    video = encode_folder(moving(tmp_path / "clip", step), SETTINGS)
    flow = compute_flow(video, SETTINGS)
    assert (flow.planes, len(flow.jpegs)) == (2, 2 * 3)
    motion = decoded(flow.jpegs) * (2 * BOUND / 255) - BOUND
    inner = motion[:, 16:-16, 16:-16]
    for plane in range(6):  # x, y, x, y, x, y
        assert np.median(inner[plane]) == pytest.approx(step[plane % 2], abs=0.3)


def test_a_video_of_one_frame_has_no_flow(tmp_path):
    video = encode_folder(moving(tmp_path / "clip", (1, 1), num_frames=1), SETTINGS)
    with pytest.raises(BadVideoError, match="flow needs at least two frames"):
        compute_flow(video, SETTINGS)


def test_computing_flow_without_opencv_names_the_extra(tmp_path, monkeypatch):
    video = encode_folder(moving(tmp_path / "clip", (1, 1)), SETTINGS)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"pip install tin-video\[flow\]"):
        compute_flow(video, SETTINGS)


@pytest.mark.parametrize("names", ["flow_{}_{:05d}.jpg", "000012-{}_{:05d}.jpg"])
def test_folders_with_an_image_for_each_axis_are_read(names, tmp_path):
    for i in range(3):
        gray(tmp_path / names.format("x", i + 1), 100 + i)
        gray(tmp_path / names.format("y", i + 1), 150 + i)
    flow = read_flow_folder(tmp_path, SETTINGS)
    assert decoded(flow.jpegs)[:, 8, 8].tolist() == [100, 150, 101, 151, 102, 152]
    assert (flow.width, flow.height, flow.source_frames, flow.planes) == (20, 16, 3, 2)


def test_folders_with_the_axes_in_two_colors_are_read(tmp_path):
    for i in range(2):
        image = Image.new("RGB", (32, 32), (90 + 10 * i, 160, 0))
        image.save(tmp_path / f"img_{i:05d}.jpg", quality=100, subsampling=0)
    levels = decoded(read_flow_folder(tmp_path, SETTINGS).jpegs)[:, 16, 16]
    np.testing.assert_allclose(levels, [90, 160, 100, 160], atol=2)


def test_flow_folders_that_do_not_fit_are_rejected(tmp_path):
    with pytest.raises(BadVideoError, match=r"has no \.jpg flow images"):
        read_flow_folder(tmp_path, SETTINGS)
    gray(tmp_path / "flow_x_00001.jpg", 1)
    with pytest.raises(BadVideoError, match="has 1 flow images along x and 0 along y"):
        read_flow_folder(tmp_path, SETTINGS)
    gray(tmp_path / "flow_y_00002.jpg", 1)
    with pytest.raises(BadVideoError, match="do not belong together"):
        read_flow_folder(tmp_path, SETTINGS)
    gray(tmp_path / "img_00003.jpg", 1)
    with pytest.raises(BadVideoError, match="img_00003.jpg: found no axis"):
        read_flow_folder(tmp_path, SETTINGS)
    with pytest.raises(BadVideoError, match="cannot be reversed"):
        read_flow_folder(tmp_path, SETTINGS, reverse=True)


def test_flow_images_of_different_sizes_are_both_named(tmp_path):
    gray(tmp_path / "flow_x_1.jpg", 1)
    gray(tmp_path / "flow_y_1.jpg", 1, size=(24, 30))
    with pytest.raises(
        BadVideoError, match=r"flow_x_1\.jpg and flow_y_1\.jpg have different sizes"
    ):
        read_flow_folder(tmp_path, SETTINGS)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Two classes of four folders of frames each, which move to the left or to the right."""
    folder = tmp_path_factory.mktemp("flow") / "source"
    for name, step in {"left": -3, "right": 3}.items():
        for number in range(4):
            moving(folder / name / f"clip{number}", (step, number % 2), num_frames=9)
    return folder


@pytest.fixture(scope="module")
def dataset(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("flow") / "shards"
    shard(shard_config(source, "shard.flow=dis", "shard.held_out=0"), folder)
    return folder


def test_a_flow_dataset_is_of_format_2_and_counts_frames_of_flow(dataset):
    info = read_yaml(dataset / "dataset.yaml")
    assert (info["format"], info["modality"]) == (2, "flow")
    assert "opencv-python-headless" in info["tool"]
    split = open_split(dataset, "train")
    assert split.videos["num_frames"].tolist() == [8] * 8
    assert split.videos["first_frame"].tolist() == [16 * video for video in range(8)]
    assert len(split.frames) == 8 * 16
    assert verify(dataset) == []
    # Row 2i is x, row 2i + 1 is y: all videos move mostly along x.
    for video in range(8):
        jpegs = []
        for row in split.frames[16 * video : 16 * video + 16]:
            with split.shard_path(row["shard"]).open("rb") as file:
                file.seek(int(row["offset"]))
                jpegs.append(file.read(int(row["size"])))
        assert all(Image.open(io.BytesIO(jpeg)).mode == "L" for jpeg in jpegs)
        x = abs(np.median(decoded(jpegs[::2])[:, 30:60, 30:60]) - 127.5)
        assert x == pytest.approx(3 * 255 / 40, abs=2.5)


def test_an_rgb_dataset_is_written_as_before(source, tmp_path):
    shard(shard_config(source, "shard.held_out=0"), tmp_path / "rgb")
    assert read_yaml(tmp_path / "rgb" / "dataset.yaml")["format"] == 1
    for name in ("dataset.yaml", "plan.yaml"):
        assert "modality" not in read_yaml(tmp_path / "rgb" / name)
    assert b'"planes"' not in (tmp_path / "rgb" / "train-00000.tar").read_bytes()


def loader(dataset: Path, *settings: str, training: bool) -> ClipLoader:
    config = load(
        None,
        [
            "clip.modality=flow", "clip.frames_per_segment=3", "clip.num_segments=2",
            "clip.crop=48", "clip.resize=64", "train.batch=4", "test.batch=4", "run.threads=1",
            "run.readers=2", *settings,
        ],
    )  # fmt: skip
    return ClipLoader(dataset, "train", config, training=training)


def test_batches_of_flow_hold_x_before_y_without_motion_at_zero(dataset):
    tested = loader(dataset, training=False)
    split = tested.split
    plan = plan_evaluation(split, tested._config, np.arange(8))
    assert plan.frames.max() <= 7
    for batch in tested.epoch(0):
        assert batch.x.shape == (4, 1, 2, 3, 48, 48, 2)
        x = normalized(batch.x)
        assert x.shape == (4, 1, 2, 2 * 3, 48, 48)
        for row, label in enumerate(batch.labels.tolist()):
            motion = x[row, 0, :, :, 16:32, 16:32].median(-1).values.median(-1).values
            # 3 pixels of 20, a half of which is the whole range of 1, over the deviation.
            expected = (-1 if label == 0 else 1) * 3 / 40 / 0.226
            np.testing.assert_allclose(motion[:, ::2], expected, atol=0.1)
            assert abs(motion[:, 1::2]).max() < 0.3
    tested.close()


def test_a_mirrored_clip_of_flow_inverts_the_motion_along_x(dataset):
    plain = loader(dataset, "augment.flip=none", training=True)
    flipped = loader(dataset, "augment.flip=random", training=True)
    num_flips = 0
    for epoch in range(2):
        for one, two in zip(plain.epoch(epoch), flipped.epoch(epoch), strict=True):
            for before, after in zip(one.x, two.x, strict=True):
                mirrored = before.flip(-2)
                mirrored[..., 0] = 255 - mirrored[..., 0]
                is_flipped = torch.equal(after, mirrored)
                num_flips += is_flipped
                assert is_flipped or torch.equal(after, before)
    assert 0 < num_flips < 16
    plain.close()
    flipped.close()


def test_mirrored_test_crops_of_flow_invert_the_motion_along_x(dataset):
    tested = loader(dataset, "test.crops=10", training=False)
    batch = next(tested.epoch(0))
    mirrored = batch.x[:, 5:].flip(-2)
    mirrored[..., 0] = 255 - mirrored[..., 0]
    assert torch.equal(mirrored, batch.x[:, :5])
    tested.close()


def test_the_flip_of_flow_equals_the_original(shared):
    with np.load(shared / "reference/more/modality_blocks.npz") as arrays:
        before = arrays["flow_in"].astype(int)  # x, y, x, y
        expected = arrays["flow_flipped_x_inverted"].astype(int)
    found = before[:, :, ::-1].copy()
    found[::2] = 255 - found[::2]  # as in the batches
    np.testing.assert_array_equal(found, expected)


def test_a_damaged_image_of_one_axis_replaces_the_frame_of_flow(dataset, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    split = open_split(copy, "train")
    row = split.frames[2 * 3 + 1]  # y of frame 3 of the first video
    with split.shard_path(row["shard"]).open("r+b") as file:
        file.seek(int(row["offset"]) + 20)
        file.write(b"\xff\x00\xff")
    tested = loader(copy, training=False)
    for _ in tested.epoch(0):
        pass
    bad = tested.take_bad_frames()
    assert {(frame.clip, frame.frame) for frame in bad} <= {(0, 3)}
    assert bad and "crc32" in bad[0].reason and "is used" in bad[0].reason
    tested.close()


@pytest.mark.parametrize("modality", ["rgb", "diff"])
def test_a_modality_that_the_dataset_does_not_have_is_rejected(dataset, modality):
    settings = [f"clip.modality={modality}", "clip.frames_per_segment=6"]
    config = load(None, settings)
    with pytest.raises(ConfigError, match=f"is a dataset of flow, but clip.modality is {modality}"):
        ClipLoader(dataset, "train", config, training=False)


def test_a_dataset_keeps_its_modality(source, dataset):
    with pytest.raises(ConfigError, match="started with"):
        shard(shard_config(source, "shard.held_out=0"), dataset)
    assert read_info(dataset).modality == "flow"


def test_flow_of_video_files_has_one_frame_fewer(tmp_path):
    source = tmp_path / "source"
    (source / "a").mkdir(parents=True)
    frames = [texture((2 * i, 0)) for i in range(6)]
    write_clip(source / "a" / "clip.mp4", frames)
    shard(shard_config(source, "shard.flow=dis", "shard.held_out=0"), tmp_path / "shards")
    split = open_split(tmp_path / "shards", "train")
    assert split.videos["num_frames"].tolist() == [5]


def test_records_of_flow_say_how_many_images_a_frame_has(dataset):
    data = (dataset / "train-00000.tar").read_bytes()
    start = data.index(b'{"key"')
    record = json.loads(data[start : data.index(b"}", start) + 1])
    assert record["planes"] == 2
    assert len(record["offsets"]) == 16


def test_the_damaged_image_of_an_axis_is_named(tmp_path):
    gray(tmp_path / "flow_x_1.jpg", 90)
    (tmp_path / "flow_y_1.jpg").write_bytes(b"nothing")
    with pytest.raises(BadVideoError, match=r"flow_y_1\.jpg: is not an image"):
        read_flow_folder(tmp_path, SETTINGS)

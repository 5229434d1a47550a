"""Folders of JPEG frames are stored unchanged where possible, or encoded again."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from synthetic_videos import cut, gray_frames, levels

from configs.schema import ShardSettings
from preprocess.decode import BadVideoError
from preprocess.frame_folders import encode_folder, list_frames

SETTINGS = ShardSettings()


def write_frames(
    folder: Path, frames: Sequence[np.ndarray], names: Sequence[str] | None = None
) -> Path:
    """Write frames as JPEG files, by default 00000.jpg and so on; return the folder."""
    folder.mkdir()
    for index, frame in enumerate(frames):
        name = names[index] if names else f"{index:05d}.jpg"
        (folder / name).write_bytes(simplejpeg.encode_jpeg(frame, colorsubsampling="420"))
    return folder


def test_frames_are_stored_byte_for_byte(tmp_path):
    folder = write_frames(tmp_path / "v", gray_frames(4), [f"img_{i}.jpg" for i in (1, 2, 10, 11)])
    video = encode_folder(folder, SETTINGS)
    names = ["img_1.jpg", "img_2.jpg", "img_10.jpg", "img_11.jpg"]
    assert [file.name for file in list_frames(folder)] == names
    assert video.jpegs == [(folder / name).read_bytes() for name in names]
    assert (video.width, video.height, video.source_frames, video.warning) == (32, 24, 4, "")


def test_cmyk_turned_and_resized_frames_are_encoded_again(tmp_path):
    folder = write_frames(tmp_path / "v", gray_frames(4))
    other = simplejpeg.encode_jpeg(gray_frames(1, 48, 36)[0])
    (folder / "00001.jpg").write_bytes(other)  # another size
    Image.new("CMYK", (32, 24)).save(folder / "00002.jpg")  # white
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    turned = np.zeros((24, 32, 3), np.uint8)
    turned[:12] = 255
    Image.fromarray(turned).save(folder / "00003.jpg", exif=exif)
    video = encode_folder(folder, SETTINGS)
    shapes = {simplejpeg.decode_jpeg(jpeg).shape for jpeg in video.jpegs}
    assert shapes == {(24, 32, 3)} and levels(video.jpegs)[:3] == [20, 20, 260]
    assert simplejpeg.decode_jpeg(video.jpegs[3])[:8].max() < 20
    spaces = [simplejpeg.decode_jpeg_header(jpeg)[2] for jpeg in video.jpegs]
    assert spaces == ["YCbCr"] * 4


def test_large_frames_are_scaled_down(tmp_path):
    folder = write_frames(tmp_path / "v", gray_frames(2, 64, 48))
    video = encode_folder(folder, ShardSettings(short_side=24))
    assert (video.width, video.height) == (32, 24) and levels(video.jpegs) == [20, 30]
    assert (video.source_width, video.source_height) == (64, 48)


def test_damaged_frames_are_left_out_up_to_10_percent(tmp_path):
    folder = write_frames(tmp_path / "v", gray_frames(11))
    (folder / "00003.jpg").write_bytes(b"no jpeg")
    video = encode_folder(folder, SETTINGS)
    assert len(video.jpegs) == 10
    assert video.warning.startswith("10 of 11 frames can be decoded: 00003.jpg: ")
    cut(folder / "00004.jpg", 0.9)
    with pytest.raises(BadVideoError, match="9 of 11 frames can be decoded"):
        encode_folder(folder, SETTINGS)


def test_a_folder_without_frames_or_timestamps_is_rejected(tmp_path):
    with pytest.raises(BadVideoError, match=r"no \.jpg frames"):
        encode_folder(tmp_path, SETTINGS)
    with pytest.raises(BadVideoError, match=r"no timestamps, so shard\.fps=5 cannot"):
        encode_folder(write_frames(tmp_path / "v", gray_frames(2)), ShardSettings(fps=5))

"""Videos of all kinds become JPEG frames, or are rejected with a reason."""

import io
import struct

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from synthetic_videos import cut, gray_frames, levels, noise_frames, write_clip

from configs.schema import ShardSettings
from preprocess.decode import BadVideoError, decode_frames, probe
from preprocess.videos import EncodedVideo, encode_video, stored_size, thinned

SETTINGS = ShardSettings()


def first_pixels(video: EncodedVideo) -> np.ndarray:
    """Return the pixels of the first frame, `(H, W, 3)`."""
    return simplejpeg.decode_jpeg(video.jpegs[0])


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "mpeg4"),
        ("a.mp4", "libx264"),
        ("a.avi", "mpeg4"),
        ("a.mkv", "mpeg4"),
        ("a.mpg", "mpeg2video"),
        ("a.webm", "libvpx"),
        ("a.mov", "mjpeg"),
    ],
)
def test_every_frame_of_a_container_is_kept_in_order(tmp_path, name, codec):
    fps = 25 if codec == "mpeg2video" else 10
    path = write_clip(tmp_path / name, gray_frames(9), fps, codec)
    video = encode_video(path, SETTINGS)
    assert levels(video.jpegs) == [20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert (video.width, video.height, video.source_frames) == (32, 24, 9)
    assert video.fps == fps and video.seconds == pytest.approx(9 / fps, abs=0.01)
    assert video.warning == ""


def test_black_and_white_span_the_full_range_of_a_jpeg(tmp_path):
    black = np.zeros((32, 32, 3), np.uint8)
    white = np.full((32, 32, 3), 255, np.uint8)
    video = encode_video(write_clip(tmp_path / "a.mp4", [black, white]), SETTINGS)
    assert simplejpeg.decode_jpeg(video.jpegs[0]).max() <= 2
    assert simplejpeg.decode_jpeg(video.jpegs[1]).min() >= 253


def test_colors_are_kept(tmp_path):
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[:, :32] = (200, 40, 40)
    frame[:, 32:] = (40, 60, 190)
    video = encode_video(write_clip(tmp_path / "a.mp4", [frame] * 3), SETTINGS)
    pixels = first_pixels(video).astype(int)
    assert np.abs(pixels[10:50, 5:25] - (200, 40, 40)).max() < 10
    assert np.abs(pixels[10:50, 40:60] - (40, 60, 190)).max() < 10


@pytest.mark.parametrize(
    ("size", "stored"),
    [
        ((640, 480), (341, 256)),  # 640 * 256 / 480 = 341.3
        ((480, 640), (256, 341)),
        ((256, 300), (256, 300)),
        ((100, 50), (100, 50)),  # never enlarged
        ((8, 6), (8, 6)),
        ((4000, 2000), (512, 256)),
        ((33, 21), (33, 21)),
    ],
)
def test_the_short_side_is_at_most_256(size, stored):
    assert stored_size(*size, 256) == stored


@pytest.mark.parametrize(("width", "height"), [(8, 8), (34, 22), (4000, 16), (322, 242)])
def test_sizes_from_8_to_4000_pixels(tmp_path, width, height):
    path = write_clip(tmp_path / "a.mp4", gray_frames(3, width, height))
    video = encode_video(path, SETTINGS)
    assert (video.width, video.height) == (width, height)
    assert levels(video.jpegs) == [20, 30, 40]
    assert first_pixels(video).shape == (height, width, 3)


@pytest.mark.parametrize(("width", "height"), [(33, 21), (9, 7), (321, 241)])
def test_odd_sizes(tmp_path, width, height):
    path = write_clip(tmp_path / "a.mkv", gray_frames(3, width, height), codec="mjpeg")
    video = encode_video(path, ShardSettings(short_side=200))
    want = (266, 200) if width == 321 else (width, height)  # 321 * 200 / 241 = 266.4
    assert (video.width, video.height) == want and levels(video.jpegs) == [20, 30, 40]
    assert first_pixels(video).shape == (want[1], want[0], 3)


def test_a_video_of_one_frame(tmp_path):
    video = encode_video(write_clip(tmp_path / "a.mp4", gray_frames(1)), SETTINGS)
    assert levels(video.jpegs) == [20] and video.seconds == pytest.approx(0.1)


def test_rotation_is_applied(tmp_path):
    """ISO 14496-12, 8.3.2: the matrix of a phone held upright turns frames 90 degrees clockwise."""
    frame = np.zeros((24, 32, 3), np.uint8)
    frame[:12, :16] = 255  # top left
    path = write_clip(tmp_path / "a.mp4", [frame] * 4)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    one = 0x10000  # 1 in 16.16 fixed point
    matrix = (0, one, 0, -one, 0, 0, 24 * one, 0, 0x40000000)  # the last is 1 in 2.30
    data[start : start + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    video = encode_video(path, SETTINGS)
    assert (video.width, video.height) == (24, 32)
    assert (video.source_width, video.source_height) == (24, 32)
    pixels = first_pixels(video)
    assert pixels[2:14, 14:22].min() > 200  # now at the top right
    assert pixels[:, :10].max() < 50 and pixels[20:].max() < 50


def test_a_variable_rate_is_kept_or_resampled_by_timestamp(tmp_path):
    times = [0, 100, 200, 300, 700, 1100]  # milliseconds
    path = write_clip(tmp_path / "a.mkv", gray_frames(6), times_ms=times)
    kept = encode_video(path, SETTINGS)
    assert levels(kept.jpegs) == [20, 30, 40, 50, 60, 70]
    seconds = [time for _, time in decode_frames(path)]
    assert seconds == pytest.approx([0, 0.1, 0.2, 0.3, 0.7, 1.1], abs=0.002)
    ticks = encode_video(path, ShardSettings(fps=5))  # at 0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2
    assert levels(ticks.jpegs)[:6] == [20, 40, 50, 50, 60, 60]
    assert ticks.fps == 5 and ticks.source_frames == 6


@pytest.mark.parametrize(("fps", "want"), [(5, [20, 40, 60, 80]), (20, [20, 20, 30, 30, 40, 40])])
def test_a_constant_rate_is_resampled(tmp_path, fps, want):
    path = write_clip(tmp_path / "a.mp4", gray_frames(8 if fps == 5 else 3), fps=10)
    assert levels(encode_video(path, ShardSettings(fps=fps)).jpegs) == want


def test_a_frame_cap_keeps_evenly_spaced_frames():
    assert thinned(list("abcdefghij"), 0) == list("abcdefghij")
    assert thinned(list("abc"), 4) == list("abc")
    assert thinned(list("abcdefgh"), 4) == list("bdfh")  # middles of pairs
    assert thinned(list("abcdefghi"), 3) == list("beh")


def test_frames_can_be_stored_in_reverse(tmp_path):
    path = write_clip(tmp_path / "a.mp4", gray_frames(4))
    assert levels(encode_video(path, SETTINGS, reverse=True).jpegs) == [50, 40, 30, 20]


def test_metadata_need_not_be_utf8(tmp_path):
    path = write_clip(tmp_path / "a.avi", gray_frames(3), metadata="MARK")
    data = path.read_bytes()
    assert data.count(b"MARK") == 1
    path.write_bytes(data.replace(b"MARK", b"\xe9\xff\xfe\x80"))
    assert levels(encode_video(path, SETTINGS).jpegs) == [20, 30, 40]


def test_a_missing_file_is_rejected(tmp_path):
    with pytest.raises(BadVideoError, match="the file is missing"):
        encode_video(tmp_path / "a.mp4", SETTINGS)


def test_a_file_of_0_bytes_is_rejected(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(BadVideoError, match="the file has 0 bytes"):
        encode_video(tmp_path / "a.mp4", SETTINGS)


@pytest.mark.parametrize(
    "text",
    ["A text.\n" * 100, "ffconcat version 1.0\nfile {}\n", "#EXTM3U\n#EXTINF:1,\n{}\n"],
    ids=["text", "script", "playlist"],
)
def test_a_text_file_named_mp4_is_rejected_and_opens_no_other_file(tmp_path, text):
    other = write_clip(tmp_path / "other.mp4", gray_frames(3))
    path = tmp_path / "a.mp4"
    path.write_text(text.format(other.name))
    with pytest.raises(BadVideoError, match="the file is not a video: .+"):
        encode_video(path, SETTINGS)


def test_a_sound_file_is_rejected(tmp_path):
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    with pytest.raises(BadVideoError, match="the file is not a video"):
        probe(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv"])
def test_a_truncated_video_is_rejected(tmp_path, name):
    noise = noise_frames(20)
    options = {"movflags": "faststart"} if name == "a.mp4" else {}
    path = write_clip(tmp_path / name, noise, options=options)
    assert len(encode_video(path, SETTINGS).jpegs) == 20
    with pytest.raises(BadVideoError, match=r"1[0-3] of (19|20) frames can be decoded"):
        encode_video(cut(path, 0.6), SETTINGS)


def test_an_mp4_truncated_before_its_index_is_rejected(tmp_path):
    path = cut(write_clip(tmp_path / "a.mp4", noise_frames(20)), 0.6)
    with pytest.raises(BadVideoError, match="the file is not a video: .+"):
        encode_video(path, SETTINGS)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv"])
def test_a_video_with_90_percent_of_its_frames_is_kept_with_a_warning(tmp_path, name):
    noise = noise_frames(40)
    options = {"movflags": "faststart"} if name == "a.mp4" else {}
    path = cut(write_clip(tmp_path / name, noise, options=options), 0.955)
    video = encode_video(path, SETTINGS)
    assert 36 <= len(video.jpegs) < 40
    assert f"{len(video.jpegs)} of " in video.warning and "can be decoded" in video.warning


def test_frames_hidden_by_an_edit_list_do_not_count_as_missing(tmp_path):
    """ISO 14496-12, 8.6.6: playback starts at `media_time`, which cut clips use."""
    path = write_clip(tmp_path / "a.mp4", gray_frames(20), codec="libx264", key_frames=20)
    data = bytearray(path.read_bytes())
    timescale = struct.unpack(">I", data[data.index(b"mdhd") + 16 :][:4])[0]
    start = data.index(b"elst") + 12  # version and flags, number of entries; duration, media time
    duration, media_time = struct.unpack(">Ii", data[start : start + 8])
    movie_scale = struct.unpack(">I", data[data.index(b"mvhd") + 16 :][:4])[0]
    hidden = 1.2  # seconds: 12 of 20 frames
    edit = (int(duration - hidden * movie_scale), int(media_time + hidden * timescale))
    data[start : start + 8] = struct.pack(">Ii", *edit)
    path.write_bytes(data)
    video = encode_video(path, SETTINGS)
    assert levels(video.jpegs) == [20 + 10 * index for index in range(12, 20)]
    assert video.warning == ""


def test_frames_are_420_jpegs_of_the_chosen_quality(tmp_path):
    video = encode_video(write_clip(tmp_path / "a.mp4", gray_frames(2)), ShardSettings(quality=50))
    image = Image.open(io.BytesIO(video.jpegs[0]))
    # Quality 50 uses table K.1 of the JPEG standard, ITU-T T.81. This is its first row.
    assert list(image.quantization[0])[:8] == [16, 11, 10, 16, 24, 40, 51, 61]
    assert simplejpeg.decode_jpeg_header(video.jpegs[0])[2:] == ("YCbCr", "420")


def test_real_clips_of_several_kinds(shared):
    patterns = [
        "ucf101/Diving/*",
        "hmdb51/**/*.avi",
        "kinetics400/**/*.mp4",
        "**/*.mkv",
        "**/*.mpg",
    ]
    for pattern in patterns:
        path = min((shared / "videos").glob(pattern))
        info = probe(path)
        video = encode_video(path, SETTINGS)
        # The files of HMDB51 announce one frame more than they have.
        assert 0 <= (info.num_frames or len(video.jpegs)) - len(video.jpegs) <= 1
        assert min(video.width, video.height) <= 256

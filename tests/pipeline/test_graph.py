"""The two decoders, compared with the pixels of the reference, with Pillow and with arithmetic.

DALI runs on the CPU here, because its code for a GPU differs from it only in the device.
"""

import io

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from pipeline.crops import scaled_sizes, source_regions, view_corners
from pipeline.cutting import cut_evaluation, cut_training
from pipeline.decoded import Shape
from pipeline.graph import DaliDecoder
from pipeline.threads import ThreadDecoder

CPU = torch.device("cpu")
PIXELS = ["w107_h80_s64_c56", "w80_h107_s64_c64", "w45_h60_s64_c56_upscale"]
GRAY_LEVELS_OFF = 2
"""Most that a scaled pixel may differ from Pillow's, as the reference allows."""


@pytest.fixture(params=PIXELS)
def pixels(request, shared):
    with np.load(shared / "reference" / "pixels" / f"{request.param}.npz") as file:
        return dict(file)


def png(image: np.ndarray) -> np.ndarray:
    """Encode an image without loss; DALI reads PNG as well."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return np.frombuffer(data.getvalue(), np.uint8)


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Return an image with coarse and fine structure."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    coarse = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(coarse + rng.integers(-9, 10, coarse.shape), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray) -> np.ndarray:
    data = simplejpeg.encode_jpeg(image, quality=90, colorsubsampling="420")
    return np.frombuffer(data, np.uint8)


def gray_jpeg(level: int) -> np.ndarray:
    image = np.full((24, 32, 1), level, np.uint8)
    data = simplejpeg.encode_jpeg(image, colorspace="GRAY", colorsubsampling="Gray")
    return np.frombuffer(data, np.uint8)


def decoder(kind: str, shape: Shape, rows: int, mirrored=None, threads=1, device=CPU):
    """Return a decoder of training clips, or of test clips if ``mirrored`` lists their crops."""
    if kind == "dali":
        return DaliDecoder(shape, rows, mirrored, threads, device)
    cut = cut_training if mirrored is None else cut_evaluation
    return ThreadDecoder(shape, cut, threads, device)


def boxes_of(boxes, flips) -> dict[str, np.ndarray]:
    """Return the arguments of training for boxes x, y, width, height."""
    x, y, width, height = np.array(boxes, np.int32).T
    return {
        "corner": np.stack([y, x], axis=1),
        "size": np.stack([height, width], axis=1),
        "flip": np.array(flips, np.int32),
    }


def train(kind: str, images, boxes, flips, crop: int, threads=1) -> np.ndarray:
    """Return the view of each image as a clip of one frame, ``(N, S, S, 3)``."""
    made = decoder(kind, Shape(1, 1, 1, crop, 1), len(images), threads=threads)
    made.start([[image] for image in images], boxes_of(boxes, flips))
    found = made.finish().numpy()[:, 0, 0]
    made.close()
    return found


def views_of(width: int, height: int, short: int, crop: int, num_crops: int, reference: bool):
    """Return the arguments of a test clip."""
    size = scaled_sizes(np.array([width]), np.array([height]), short)
    corners = view_corners(size, crop, num_crops, reference)
    regions = source_regions(corners, crop, size, np.array([width]), np.array([height]))
    mirrored = np.array([[view >= 5 for view in range(num_crops)]])
    return {"scaled": size, "corners": corners, "mirrored": mirrored, "regions": regions}


def evaluate(kind: str, images, width, height, short, crop, num_crops, reference) -> np.ndarray:
    """Return the views of a test clip with the frames ``images``, ``(V, F, S, S, 3)``."""
    arguments = views_of(width, height, short, crop, num_crops, reference)
    shape = Shape(1, num_crops, len(images), crop, 1)
    made = decoder(kind, shape, 1, arguments["mirrored"][0].tolist())
    made.start([images], arguments)
    found = made.finish().numpy()[0]
    made.close()
    return found


def views_of_pixels(kind: str, pixels, num_crops: int) -> np.ndarray:
    """Return the views of the reference's frames, which libjpeg-turbo does not decode."""
    frames = pixels["frames"]
    crop = pixels["out"].shape[-1]
    _, height, width, _ = frames.shape
    if kind == "dali":
        return evaluate(kind, [png(f) for f in frames], width, height, 64, crop, num_crops, True)
    arguments = views_of(width, height, 64, crop, num_crops, True)
    row = {name: values[0] for name, values in arguments.items()}
    return np.stack(cut_evaluation(frames, row, crop))


def off(found: np.ndarray, want: np.ndarray) -> int:
    """Return the largest difference in gray levels."""
    return int(np.abs(found.astype(int) - want).max())


KINDS = pytest.mark.parametrize("kind", ["threads", "dali"])


@KINDS
def test_the_center_view_equals_the_reference(kind, pixels):
    crop = pixels["out"].shape[-1]
    (view,) = views_of_pixels(kind, pixels, 1)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    want = pixels["out"].reshape(2, 3, crop, crop).transpose(0, 2, 3, 1) * std + mean
    assert np.abs(view - 255 * want).max() <= GRAY_LEVELS_OFF + 0.01


@KINDS
def test_three_views_have_the_pixels_and_means_of_the_reference(kind, pixels):
    views = views_of_pixels(kind, pixels, 3)
    crop = views.shape[2]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    found = ((views / 255 - mean) / std).mean((2, 3)).reshape(-1, 3)
    assert found == pytest.approx(pixels["full_res3_means"], abs=0.3 / 255 / 0.224)
    _, rows, columns, _ = pixels["scaled"].shape
    corners = view_corners(np.array([[columns, rows]]), crop, 3, True)[0]
    for view, (x, y) in zip(views, corners, strict=True):
        assert off(view, pixels["scaled"][:, y : y + crop, x : x + crop]) <= GRAY_LEVELS_OFF


@KINDS
def test_a_multi_scale_crop_equals_the_reference(kind, pixels):
    width, height, x, y = pixels["multiscale_params_w_h_x_y"].tolist()
    crop = pixels["multiscale"].shape[1]
    if kind == "dali":
        images = [png(frame) for frame in pixels["frames"]]
        found = train(kind, images, [(x, y, width, height)] * 2, [0, 0], crop)
    else:
        box = {name: row[0] for name, row in boxes_of([(x, y, width, height)], [0]).items()}
        (found,) = cut_training(pixels["frames"], box, crop)
    assert off(found, pixels["multiscale"]) <= GRAY_LEVELS_OFF


@KINDS
def test_a_region_that_is_not_scaled_equals_pillow_exactly(kind):
    data = jpeg(noise(90, 70))
    image = Image.open(io.BytesIO(data.tobytes()))
    want = np.asarray(image.crop((7, 11, 7 + 48, 11 + 48)))[None]
    assert np.array_equal(train(kind, [data], [(7, 11, 48, 48)], [0], 48), want)


@KINDS
def test_a_flip_mirrors_left_and_right(kind):
    data = jpeg(noise(64, 64))
    plain, flipped = train(kind, [data, data], [(3, 5, 40, 50)] * 2, [0, 1], 32)
    assert off(flipped, plain[:, ::-1]) <= 1
    assert off(plain, flipped) > 10


@KINDS
def test_the_last_five_of_ten_views_mirror_the_first(kind):
    views = evaluate(kind, [jpeg(noise(60, 40))], 60, 40, 40, 32, 10, False)
    assert np.array_equal(views[5:], views[:5, :, :, ::-1])


@KINDS
def test_views_equal_scaling_and_then_cropping_with_pillow(kind):
    data = jpeg(noise(160, 120))
    views = evaluate(kind, [data], 160, 120, 64, 56, 5, False)
    scaled = Image.open(io.BytesIO(data.tobytes())).resize((85, 64), Image.Resampling.BILINEAR)
    for view, (x, y) in zip(views, [(0, 0), (29, 0), (0, 8), (29, 8), (14, 4)], strict=True):
        want = np.asarray(scaled.crop((x, y, x + 56, y + 56)))[None]
        assert off(view, want) <= GRAY_LEVELS_OFF


@KINDS
def test_pixels_do_not_depend_on_threads_or_on_other_frames_of_the_batch(kind):
    images = [jpeg(noise(80, 60, seed)) for seed in range(4)]
    boxes = [(seed, 2 * seed, 40 + seed, 50) for seed in range(4)]
    one, four = (train(kind, images, boxes, [0, 1, 0, 1], 24, threads) for threads in (1, 4))
    assert np.array_equal(one, four)
    assert np.array_equal(one[2:3], train(kind, images[2:3], boxes[2:3], [0], 24))


@KINDS
def test_batches_come_out_in_order_and_stay_valid(kind):
    images = [jpeg(np.full((16, 16, 3), 20 * value, np.uint8)) for value in range(8)]
    made = decoder(kind, Shape(1, 1, 1, 16, 1), 2, threads=2)
    for first in range(0, 8, 2):
        rows = [[image] for image in images[first : first + 2]]
        made.start(rows, boxes_of([(0, 0, 16, 16)] * 2, [0, 0]))
    found = torch.cat([made.finish() for _ in range(4)]).numpy()
    made.close()
    want = np.arange(0, 160, 20)[:, None, None, None, None, None]
    assert off(found, np.broadcast_to(want, found.shape)) < 2


@KINDS
def test_data_that_is_not_an_image_raises(kind):
    with pytest.raises((RuntimeError, ValueError)):
        train(kind, [np.frombuffer(b"no image" * 9, np.uint8)], [(0, 0, 8, 8)], [0], 8)


def test_frames_of_two_sizes_in_a_video_are_rejected():
    made = decoder("threads", Shape(1, 1, 2, 8, 1), 1)
    made.start([[jpeg(noise(32, 24)), jpeg(noise(24, 32))]], boxes_of([(0, 0, 8, 8)], [0]))
    with pytest.raises(ValueError, match="24x32 pixels, but another of its video has 32x24"):
        made.finish()
    made.close()


def test_clips_and_crops_of_a_video_and_frames_of_a_clip_keep_their_order():
    """Both decoders fill the six dimensions of a batch alike."""
    images = [jpeg(noise(60, 40, seed)) for seed in range(2 * 3 * 2)]
    arguments = views_of(60, 40, 40, 32, 3, False)
    arguments = {name: np.repeat(values, 2, axis=0) for name, values in arguments.items()}
    found = []
    for kind in ("threads", "dali"):
        made = decoder(kind, Shape(3, 3, 2, 32, 1), 2, [False] * 3)
        made.start([images[:6], images[6:]], arguments)
        found.append(made.finish().numpy())
        made.close()
    assert found[0].shape == (2, 9, 2, 32, 32, 3)
    assert np.array_equal(*found)  # nothing is scaled
    last = np.asarray(Image.open(io.BytesIO(images[-1].tobytes())))
    assert np.array_equal(found[0][1, 6, 1], last[4:36, :32])  # the left crop of the third clip


DEVICES = [
    ("threads", "cpu"),
    ("dali", "cpu"),
    pytest.param("threads", "cuda:0", marks=pytest.mark.gpu),
    pytest.param("dali", "cuda:0", marks=pytest.mark.gpu),
]


@pytest.mark.parametrize(("kind", "device"), DEVICES)
def test_two_gray_images_become_the_colors_of_a_frame_of_flow(kind, device):
    levels = np.array([0, 100, 255, 128], np.uint8)
    images = [gray_jpeg(level) for level in levels]
    want = levels.reshape(1, 2, 2)  # a clip of two frames of x and y
    shape = Shape(1, 1, 2, 16, 2)
    made = decoder(kind, shape, 1, device=torch.device(device))
    made.start([images], boxes_of([(0, 0, 20, 20)], [0]))
    found = made.finish().cpu().numpy()
    assert found.shape == (1, 1, 2, 16, 16, 2)
    assert off(found[0, 0], want.reshape(2, 1, 1, 2).repeat(16, 1).repeat(16, 2)) < 2
    made.close()
    arguments = views_of(32, 24, 20, 16, 1, False)
    made = decoder(kind, shape, 1, [False], device=torch.device(device))
    made.start([images], arguments)
    found = made.finish().cpu().numpy()
    assert off(found[0, 0], want.reshape(2, 1, 1, 2).repeat(16, 1).repeat(16, 2)) < 2
    made.close()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["threads", "dali"])
def test_a_gpu_gives_nearly_the_same_pixels_as_the_cpu(kind):
    images = [jpeg(noise(320, 240, seed)) for seed in range(4)]
    arguments = boxes_of([(20, 20, 200, 200)] * 4, [0, 1, 0, 1])
    found = []
    for name, device in (("threads", CPU), (kind, torch.device("cuda:0"))):
        made = decoder(name, Shape(1, 1, 1, 224, 1), 4, threads=2, device=device)
        made.start([[image] for image in images], arguments)
        found.append(made.finish())
        made.close()
    assert found[1].device == torch.device("cuda:0")
    difference = (found[1].cpu().int() - found[0].int()).abs()
    assert difference.float().mean() < (0.5 if kind == "dali" else 1e-9)
    assert difference.max() <= 12

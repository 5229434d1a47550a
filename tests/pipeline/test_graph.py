"""The DALI graphs, compared with the pixels of the reference, with Pillow and with arithmetic."""

import io

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from pipeline.batches import MEAN, STD
from pipeline.crops import scaled_sizes, source_regions, view_corners
from pipeline.graph import dali_training_graph, evaluation_graph, training_graph

CPU = torch.device("cpu")
GRAY_LEVEL = 1 / 255 / 0.224  # of a normalized image; 0.224 is the mean of STD
PIXELS = ["w107_h80_s64_c56", "w80_h107_s64_c64", "w45_h60_s64_c56_upscale"]


@pytest.fixture(params=PIXELS)
def pixels(request, shared):
    with np.load(shared / "reference" / "pixels" / f"{request.param}.npz") as file:
        return dict(file)


def png(image: np.ndarray) -> np.ndarray:
    """Encode an image without loss; the decoder reads PNG as well."""
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


def train(images, boxes, flips, crop: int, threads=1, make=training_graph) -> torch.Tensor:
    graph = make(len(images), crop, threads, CPU)
    x, y, width, height = np.array(boxes, np.int32).T
    corner = np.stack([y, x], axis=1)
    size = np.stack([height, width], axis=1)
    graph.start(images, corner=corner, size=size, flip=np.array(flips, np.int32))
    return graph.finish()[0]


def normalized(images: np.ndarray) -> torch.Tensor:
    """Normalize uint8 ``(N, H, W, 3)`` by the definition; return ``(N, 3, H, W)``."""
    values = (images.astype(np.float64) / 255 - MEAN) / STD
    return torch.from_numpy(values).permute(0, 3, 1, 2).float()


def evaluate(images, width: int, height: int, short: int, crop: int, num_crops: int, reference):
    size = scaled_sizes(np.array([width]), np.array([height]), short)
    corners = view_corners(size, crop, num_crops, reference)
    regions = source_regions(corners, crop, size, np.array([width]), np.array([height]))[0]
    mirrored = [view >= 5 for view in range(num_crops)]
    graph = evaluation_graph(len(images), crop, mirrored, 1, CPU)
    arguments = {f"region{v}": np.tile(row, (len(images), 1)) for v, row in enumerate(regions)}
    graph.start(images, **arguments)
    return graph.finish()


def test_the_center_view_equals_the_reference(pixels):
    frames = pixels["frames"]
    crop = pixels["out"].shape[-1]
    _, height, width, _ = frames.shape
    (view,) = evaluate([png(f) for f in frames], width, height, 64, crop, 1, True)
    want = torch.from_numpy(pixels["out"]).view(2, 3, crop, crop)
    assert (view - want).abs().max() <= 2 / 255 / 0.22


def test_three_views_have_the_pixels_and_means_of_the_reference(pixels):
    frames = pixels["frames"]
    crop = pixels["out"].shape[-1]
    _, height, width, _ = frames.shape
    views = evaluate([png(f) for f in frames], width, height, 64, crop, 3, True)
    found = torch.cat(views).mean(dim=(2, 3)).numpy()
    assert found == pytest.approx(pixels["full_res3_means"], abs=0.3 * GRAY_LEVEL)
    _, rows, columns, _ = pixels["scaled"].shape
    corners = view_corners(np.array([[columns, rows]]), crop, 3, True)[0]
    for view, (x, y) in zip(views, corners, strict=True):
        want = normalized(pixels["scaled"][:, y : y + crop, x : x + crop])
        assert (view - want).abs().max() <= 2 / 255 / 0.22


GRAPHS = pytest.mark.parametrize("make", [training_graph, dali_training_graph])


@GRAPHS
def test_a_multi_scale_crop_equals_the_reference(pixels, make):
    width, height, x, y = pixels["multiscale_params_w_h_x_y"]
    want = normalized(pixels["multiscale"])
    crop = pixels["multiscale"].shape[1]
    images = [png(frame) for frame in pixels["frames"]]
    found = train(images, [(x, y, width, height)] * 2, [0, 0], crop, make=make)
    assert (found - want).abs().max() <= 2 / 255 / 0.22


@GRAPHS
def test_a_region_that_is_not_scaled_equals_pillow_exactly(make):
    data = jpeg(noise(90, 70))
    image = Image.open(io.BytesIO(data.tobytes()))
    want = np.asarray(image.crop((7, 11, 7 + 48, 11 + 48)))[None]
    found = train([data], [(7, 11, 48, 48)], [0], 48, make=make)
    assert (found - normalized(want)).abs().max() < 1e-5  # a gray level is 0.017


@GRAPHS
def test_a_flip_mirrors_left_and_right(make):
    data = jpeg(noise(64, 64))
    plain, flipped = train([data, data], [(3, 5, 40, 50)] * 2, [0, 1], 32, make=make)
    torch.testing.assert_close(flipped, plain.flip(-1), rtol=0, atol=1e-5)
    assert (plain - flipped).abs().max() > 10 * GRAY_LEVEL


def test_the_last_five_of_ten_views_mirror_the_first():
    views = evaluate([jpeg(noise(60, 40))], 60, 40, 40, 32, 10, False)
    for view, mirrored in zip(views[:5], views[5:], strict=True):
        torch.testing.assert_close(mirrored, view.flip(-1), rtol=0, atol=1e-5)


def test_views_equal_scaling_and_then_cropping_with_pillow():
    data = jpeg(noise(160, 120))
    views = evaluate([data], 160, 120, 64, 56, 5, False)
    scaled = Image.open(io.BytesIO(data.tobytes())).resize((85, 64), Image.Resampling.BILINEAR)
    for view, (x, y) in zip(views, [(0, 0), (29, 0), (0, 8), (29, 8), (14, 4)], strict=True):
        want = normalized(np.asarray(scaled.crop((x, y, x + 56, y + 56)))[None])
        assert (view - want).abs().max() <= 2 / 255 / 0.22


@GRAPHS
def test_pixels_do_not_depend_on_threads_or_on_other_frames_of_the_batch(make):
    images = [jpeg(noise(80, 60, seed)) for seed in range(4)]
    boxes = [(seed, 2 * seed, 40 + seed, 50) for seed in range(4)]
    one, four = (train(images, boxes, [0, 1, 0, 1], 24, threads, make) for threads in (1, 4))
    alone = train(images[2:3], boxes[2:3], [0], 24, make=make)
    assert torch.equal(one, four)
    assert torch.equal(one[2:3], alone)


def test_batches_come_out_in_order_and_stay_valid():
    images = [jpeg(np.full((16, 16, 3), 20 * value, np.uint8)) for value in range(8)]
    graph = training_graph(2, 16, 2, CPU)
    box = {"corner": np.zeros((2, 2), np.int32), "size": np.full((2, 2), 16, np.int32)}
    for first in range(0, 8, 2):
        graph.start(images[first : first + 2], flip=np.zeros(2, np.int32), **box)
    found = torch.cat([graph.finish()[0] for _ in range(4)])
    want = normalized(np.arange(0, 160, 20, dtype=np.uint8)[:, None, None, None].repeat(3, -1))
    assert (found - want).abs().max() < 2 * GRAY_LEVEL


def test_data_that_is_not_an_image_raises():
    with pytest.raises(RuntimeError):
        train([np.frombuffer(b"no image" * 9, np.uint8)], [(0, 0, 8, 8)], [0], 8)


@pytest.mark.parametrize(
    ("device", "graph_of"),
    [
        ("cpu", training_graph),
        ("cpu", dali_training_graph),
        pytest.param("cuda:0", training_graph, marks=pytest.mark.gpu),
    ],
)
def test_gray_images_of_flow_have_one_color_and_their_own_normalization(device, graph_of):
    levels = np.array([0, 100, 255, 128], np.uint8)
    images = [
        np.frombuffer(
            simplejpeg.encode_jpeg(
                np.full((24, 32, 1), level, np.uint8), colorspace="GRAY", colorsubsampling="Gray"
            ),
            np.uint8,
        )
        for level in levels
    ]
    want = torch.from_numpy((levels / 255 - 0.5) / 0.226)
    graph = graph_of(4, 16, 1, torch.device(device), gray=True)
    corner = np.zeros((4, 2), np.int32)
    graph.start(images, corner=corner, size=corner + 20, flip=np.zeros(4, np.int32))
    (found,) = graph.finish()
    assert found.shape == (4, 1, 16, 16)
    assert (found.cpu() - want[:, None, None, None]).abs().max() < 2 / 255 / 0.226
    graph = evaluation_graph(4, 16, [False], 1, torch.device(device), gray=True)
    graph.start(images, region0=np.tile(np.float32([0, 0, 20, 20]), (4, 1)))
    (found,) = graph.finish()
    assert found.shape == (4, 1, 16, 16)
    assert (found.cpu() - want[:, None, None, None]).abs().max() < 2 / 255 / 0.226


@pytest.mark.gpu
def test_a_gpu_gives_nearly_the_same_pixels_as_the_cpu():
    images = [jpeg(noise(320, 240, seed)) for seed in range(4)]
    size = np.full((4, 2), 200, np.int32)
    corner = np.full((4, 2), 20, np.int32)
    found = []
    for device in (CPU, torch.device("cuda:0")):
        graph = training_graph(4, 224, 2, device)
        graph.start(images, corner=corner, size=size, flip=np.array([0, 1, 0, 1], np.int32))
        found.append(graph.finish()[0])
    assert found[1].device == torch.device("cuda:0")
    difference = (found[1].cpu() - found[0]).abs()
    assert difference.mean() < GRAY_LEVEL
    assert difference.max() < 12 * GRAY_LEVEL


def test_pixels_on_a_cpu_have_the_bits_of_earlier_versions():
    """A run that is resumed after an update must end with the same weights."""
    level = np.arange(0, 256, 5, dtype=np.uint8)
    images = [jpeg(np.full((16, 16, 3), value, np.uint8)) for value in level]
    graph = training_graph(len(images), 16, 1, CPU)
    corner = np.zeros((len(images), 2), np.int32)
    graph.start(images, corner=corner, size=corner + 16, flip=np.zeros(len(images), np.int32))
    (found,) = graph.finish()
    decoded = np.stack([simplejpeg.decode_jpeg(image.tobytes()) for image in images])
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    pixels = torch.from_numpy(decoded).permute(0, 3, 1, 2)
    assert torch.equal(found, torch.sub(pixels, mean).div_(std))

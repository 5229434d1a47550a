"""Exported files compute what the run computes, also where this package is not installed."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_dataset import write_dataset
from untrained_run import write_run

from configs.load import ConfigError, load
from pipeline.crops import scaled_sizes, source_regions, view_corners
from tin.deploy.clips import Clip, clips_of_dataset
from tin.deploy.export import METADATA, ExportError, _check, export
from tin.deploy.preprocess import Preprocess
from tin.evaluation.predict import cut, frames_input
from tin.op.interlace import interlace_by_matrix, interlace_reference
from tin.runs import checkpoint
from tin.runs.restore import config_of, restore

HOSTILE = """
import sys
sys.path[:] = [path for path in sys.path if path] + [sys.argv[1]]
for name in ("tin", "configs", "pipeline"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} can be imported, so this test proves nothing")
import numpy as np
x = np.load(sys.argv[3])
"""
RUN_PT2 = """
import torch
logits = torch.export.load(sys.argv[2]).module()(torch.from_numpy(x)).detach().numpy()
"""
RUN_ONNX = """
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[2])
(logits,) = session.run(["logits"], {session.get_inputs()[0].name: x})
"""


def run_without_the_package(code: str, file: Path, x: np.ndarray, folder: Path) -> np.ndarray:
    """Return the logits that a Python without this package computes with an exported file."""
    np.save(folder / "x.npy", x)
    # -I ignores PYTHONPATH and -S leaves out site-packages and with it the editable install; the
    # folder of the other packages is appended by hand.
    packages = folder / "packages"
    packages.mkdir(exist_ok=True)
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        own = path.suffix == ".pth" or path.name.startswith(("__editable__", "tin_video"))
        link = packages / path.name
        if not own and not link.exists():
            link.symlink_to(path)
    script = HOSTILE + code + "np.save(sys.argv[4], logits)"
    arguments = [packages, file, folder / "x.npy", folder / "logits.npy"]
    command = [sys.executable, "-I", "-S", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "logits.npy")


def logits_of(run_dir: Path, x: np.ndarray, preprocess: bool) -> np.ndarray:
    """Return the logits of the run's own model."""
    state = checkpoint.load(run_dir / "checkpoints" / "best.pt")
    config = config_of(state)
    clips = torch.from_numpy(x)
    with torch.no_grad():
        return restore(state, config)(Preprocess(config)(clips) if preprocess else clips).numpy()


@pytest.mark.parametrize(("suffix", "code"), [(".pt2", RUN_PT2), (".onnx", RUN_ONNX)])
@pytest.mark.parametrize("preprocess", [False, True], ids=["clip", "frames"])
def test_a_file_runs_without_this_package(run_dir, tmp_path, suffix, code, preprocess):
    file = tmp_path / f"model{suffix}"
    check = export(run_dir, file, preprocess=preprocess, videos=[])
    assert check.num_clips == 4
    assert check.largest_difference <= 1e-4
    rng = np.random.default_rng(0)
    # a batch and a size of frames that the model was not traced with
    if preprocess:
        x = rng.integers(0, 255, (3, 4, 61, 90, 3), np.uint8)
    else:
        x = rng.standard_normal((3, 4, 3, 32, 32), np.float32)
    want = logits_of(run_dir, x, preprocess)
    assert want.std(0).max() > 0.01  # the clips have different logits
    found = run_without_the_package(code, file, x, tmp_path)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("settings", [
    ("model.temporal=shift", "model.shift_div=8"), ("model.temporal=conv",),
    ("model.temporal=none", "clip.frames_per_segment=2"),
], ids=["shift", "conv", "stacked"])  # fmt: skip
def test_other_temporal_modules_are_exported(make_run, tmp_path, settings):
    export(make_run(*settings), tmp_path / "model.onnx", preprocess=True, videos=[])


def test_the_files_hold_standard_operators_settings_and_classes(run_dir, tmp_path):
    import onnx

    export(run_dir, tmp_path / "model.onnx", preprocess=True, videos=[])
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not model.functions
    (opset,) = model.opset_import
    assert (opset.domain, opset.version) == ("", 18)
    dims = [
        dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim
    ]
    assert dims == ["batch", 4, "height", "width", 3]
    (entry,) = model.metadata_props
    metadata = json.loads(entry.value)
    assert entry.key == METADATA
    assert len(metadata["classes"]) == 8
    assert metadata["settings"]["clip"]["num_segments"] == 4


def test_safetensors_hold_the_weights_and_the_card_says_what_they_are(run_dir, dataset, tmp_path):
    from safetensors import safe_open

    tests = run_dir / "tests" / "val-1x1-32"
    tests.mkdir(parents=True)
    result = {"metrics": {"top1": 0.25, "pair": None}, "intervals": {"top1": [0.125, 0.5]},
              "dataset_digest": "abc"}  # fmt: skip
    (tests / "result.json").write_text(json.dumps(result))
    (run_dir / "tests" / "broken").mkdir()
    (run_dir / "tests" / "broken" / "result.json").write_text("{")
    export(run_dir, tmp_path / "model.safetensors", preprocess=False, videos=[])
    weights = checkpoint.load(run_dir / "checkpoints" / "best.pt")["model"]
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(weights)
        torch.testing.assert_close(file.get_tensor("fc.weight"), weights["fc.weight"])
        assert json.loads(file.metadata()[METADATA])["scores"] == "softmax"
    card = (tmp_path / "model.md").read_text()
    assert "| val-1x1-32 | top1 | 0.2500 | 0.1250 to 0.5000 |" in card
    assert "digest of the dataset: abc" in card
    assert "Apache-2.0" in card
    assert "num_segments: 4" in card


def test_a_file_that_computes_something_else_is_rejected(run_dir):
    network = torch.nn.Identity()
    clips = [Clip("one", np.zeros(1))]
    x = torch.tensor([[1.0, 2.0]])
    with pytest.raises(ExportError, match=r"one: a logit .* differs by 0\.001 "):
        _check(lambda x: x.numpy() + np.float32(0.001), network, [x], clips)
    with pytest.raises(ExportError, match="differs by nan"):
        _check(lambda x: x.numpy() * np.nan, network, [x], clips)
    assert _check(lambda x: x.numpy(), network, [x], clips).largest_difference == 0


def test_what_cannot_be_exported_is_rejected_in_words(run_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown format \.pth"):
        export(run_dir, tmp_path / "model.pth", preprocess=False, videos=[])
    with pytest.raises(ConfigError, match="cannot hold preprocessing"):
        export(run_dir, tmp_path / "model.safetensors", preprocess=True, videos=[])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(90, 61), (40, 55), (30, 30)], ids=str)
def test_the_preprocessing_scales_as_pillow_does(size):
    height, width = size
    config = load(None, ["clip.num_segments=2", "clip.crop=32", "clip.resize=40"])
    smooth = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 3), np.uint8)
    images = [Image.fromarray(image).resize((width, height)) for image in smooth]
    sizes = scaled_sizes(np.array([width]), np.array([height]), 40)
    corners = view_corners(sizes, 32, 1, False)
    region = source_regions(corners, 32, sizes, np.array([width]), np.array([height]))[0, 0]
    expected = np.stack([cut(image, region.tolist(), False, 32) for image in images])
    frames = torch.from_numpy(np.stack([np.asarray(image) for image in images]))[None]
    found = Preprocess(config)(frames)
    levels = (found - frames_input(torch.from_numpy(expected)[None], 2)).abs() * 0.229 * 255
    assert levels.max() < 1.2  # Pillow rounds to whole gray levels after each of its two axes


@pytest.mark.parametrize("offset", [[0.0, 1.0], [0.25, -1.5], [-2.0, 9.0], [1.999, -0.001]])
def test_the_matrix_computes_the_definition_of_the_operator(offset):
    x = torch.randn(2 * 5, 6, 2, 3, dtype=torch.float64)
    weight = torch.rand(2, 5, 2, dtype=torch.float64)
    offsets = torch.tensor([offset, offset[::-1]], dtype=torch.float64)
    want = interlace_reference(x, offsets, weight, 4)
    torch.testing.assert_close(interlace_by_matrix(x, offsets, weight, 4), want)


def test_clips_of_the_dataset_are_the_first_videos(run_dir):
    config = config_of(checkpoint.load(run_dir / "checkpoints" / "best.pt"))
    clips = clips_of_dataset(config, 3)
    assert len({clip.name for clip in clips}) == 3
    assert clips[0].frames.shape == (4, 64, 64, 3)


@pytest.mark.parametrize("preprocess", [False, True], ids=["clip", "frames"])
def test_a_model_of_optical_flow_is_exported(tmp_path, preprocess):
    dataset = write_dataset(tmp_path / "flow", [9] * 3, sizes=((48, 40),), modality="flow")
    run = write_run(
        tmp_path / "run", dataset, "clip.modality=flow", "clip.frames_per_segment=5",
        "data.test_split=train",
    )  # fmt: skip
    file = tmp_path / "model.pt2"
    check = export(run, file, preprocess=preprocess, videos=[])
    assert check.num_clips == 3
    extra = {METADATA: ""}
    torch.export.load(file, extra_files=extra)
    shape = json.loads(extra[METADATA])["input"]["shape"]
    T = 4
    if preprocess:
        assert shape == ["batch", 5 * T, "height", "width", 2]
    else:
        assert shape == ["batch", T, 10, 32, 32]


def test_the_frames_of_a_flow_clip_are_x_before_y(tmp_path):
    dataset = write_dataset(tmp_path / "flow", [9], sizes=((48, 40),), modality="flow")
    config = load(None, [
        f"data.dataset={dataset}", "data.test_split=train", "clip.modality=flow",
        "clip.frames_per_segment=5", "clip.num_segments=1", "clip.crop=32", "clip.resize=40",
    ])  # fmt: skip
    (clip,) = clips_of_dataset(config, 1)
    assert clip.frames.shape == (5, 40, 48, 2)
    # Gray 128 is no motion, which TSN's normalization maps to about 0: (128/255 - 0.5) / 0.226.
    still = torch.full((1, 5, 40, 48, 2), 128, dtype=torch.uint8)
    x = Preprocess(config)(still)
    assert x.shape == (1, 1, 10, 32, 32)
    torch.testing.assert_close(x, torch.full_like(x, 0.5 / 255 / 0.226), rtol=1e-3, atol=1e-6)

"""The method against tests/vectors, numbers that an independent NumPy script computed."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.load import load
from pipeline.frames import evaluation_frames, training_frames
from tin.evaluation import metrics
from tin.models.resnet import BasicBlock
from tin.models.temporal import TemporalInterlace
from tin.op.interlace import interlace
from tin.training.optim import learning_rate

FOLDER = Path(__file__).parent / "vectors"
EXACT = {"rtol": 1e-10, "atol": 1e-12}
DIFFERENCES = {"rtol": 1e-6, "atol": 1e-7}  # the accuracy of central differences
Vectors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    """Return the arrays of all parts, by ``part/name``."""
    with np.load(FOLDER / "vectors.npz", allow_pickle=False) as file:
        return dict(file)


def part(vectors: Vectors, name: str) -> Vectors:
    """Return the arrays of a part, by their names in the part."""
    prefix = f"{name}/"
    return {
        key.removeprefix(prefix): value for key, value in vectors.items() if key.startswith(prefix)
    }


def tensors(vectors: Vectors, name: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Return the arrays of a part as tensors, by their names in the part."""
    arrays = part(vectors, name)
    return {key: torch.from_numpy(value).to(dtype) for key, value in arrays.items()}


def parameters(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters of a module among the tensors of a part."""
    prefix = "param_"
    return {
        key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)
    }


def test_the_script_makes_these_vectors_and_they_are_small(vectors: Vectors):
    spec = importlib.util.spec_from_file_location("make_vectors", FOLDER / "make_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = script.vectors()
    assert made.keys() == vectors.keys()
    for name, value in made.items():
        np.testing.assert_allclose(value, vectors[name], rtol=1e-6, atol=1e-8, err_msg=name)
    assert (FOLDER / "vectors.npz").stat().st_size < 200_000


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_operator_and_its_gradients(vectors: Vectors, layout: torch.memory_format):
    v = tensors(vectors, "op")
    x = v["x"].contiguous(memory_format=layout).requires_grad_()
    offset = v["offset"].requires_grad_()
    weight = v["weight"].requires_grad_()
    y = interlace(x, offset, weight, channels=8)
    torch.testing.assert_close(y, v["y"], **EXACT)
    y.backward(v["grad"])
    torch.testing.assert_close(x.grad, v["grad_x"], **DIFFERENCES)
    torch.testing.assert_close(offset.grad, v["grad_offset"], **DIFFERENCES)
    torch.testing.assert_close(weight.grad, v["grad_weight"], **DIFFERENCES)
    whole = interlace(x, v["whole_offset"], weight, channels=8)
    torch.testing.assert_close(whole, v["whole_y"], **EXACT)


def test_the_module_and_its_gradients(vectors: Vectors):
    v = tensors(vectors, "module")
    module = TemporalInterlace(16, num_segments=3, shift_div=4).double()
    module.load_state_dict(parameters(v))
    module.record = True
    x = v["x"].requires_grad_()
    y = module(x)
    torch.testing.assert_close(y, v["y"], **EXACT)
    torch.testing.assert_close(module.offset, v["offset"], **EXACT)
    torch.testing.assert_close(module.weight, v["weight"], **EXACT)
    y.backward(v["grad"])
    torch.testing.assert_close(x.grad, v["grad_x"], **DIFFERENCES)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, v[f"grad_{name}"], **DIFFERENCES)


@pytest.mark.parametrize(
    "dtype, tolerance",
    [(torch.float64, EXACT), (torch.float32, {"rtol": 1e-4, "atol": 1e-5})],
)
def test_a_residual_block(vectors: Vectors, dtype: torch.dtype, tolerance: dict[str, Any]):
    v = tensors(vectors, "block", dtype)
    block = BasicBlock(16, 16, 1, TemporalInterlace(16, num_segments=4, shift_div=4)).to(dtype)
    block.load_state_dict(parameters(v))
    block.eval()
    with torch.no_grad():
        torch.testing.assert_close(block(v["x"]), v["y"], **tolerance)


def test_metrics(vectors: Vectors):
    v = part(vectors, "metrics")
    found = {
        "map_class": metrics.map_class(v["scores"], v["targets"]),
        "map_sample": metrics.map_sample(v["scores"], v["targets"]),
        "top1": metrics.top_k(v["scores"], v["labels"], 1),
        "top5": metrics.top_k(v["scores"], v["labels"], 5),
        "mean_class": metrics.mean_class_accuracy(v["scores"], v["labels"]),
    }
    assert found == pytest.approx({name: float(v[name]) for name in found}, abs=1e-12)


def test_sampling(vectors: Vectors):
    v = part(vectors, "sampling")
    clip = load(None).clip
    num_frames = v["num_frames"]
    draws = v["draws"]
    found = evaluation_frames(num_frames, clip, 1, draws[:, None])
    assert np.array_equal(found[:, 0], v["middle"])
    assert np.array_equal(training_frames(num_frames, clip, draws), v["random"])


def test_the_learning_rate_schedule(vectors: Vectors):
    config = load(None, ["train.epochs=12", "optim.warmup_epochs=1.5"])
    found = [learning_rate(config, step, steps_per_epoch=3) for step in range(36)]
    np.testing.assert_allclose(found, vectors["schedule/lr"], rtol=1e-12, atol=1e-15)

"""The method against numbers of an independent NumPy script, which stand in this repository."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.load import load
from pipeline.frames import evaluation_frames, training_frames
from tin.evaluation import metrics
from tin.models.resnet import BasicBlock
from tin.models.temporal import TemporalInterlace
from tin.op.interlace import interlace
from tin.training.optim import learning_rate

FOLDER = Path(__file__).parent / "vectors"
EXACT = {"rtol": 1e-10, "atol": 1e-12}
DIFFERENCES = {"rtol": 1e-6, "atol": 1e-7}  # what central differences can tell


@pytest.fixture(scope="module")
def vectors():
    with np.load(FOLDER / "vectors.npz", allow_pickle=False) as file:
        return dict(file)


def part(vectors, name, dtype=torch.float64):
    """Return the arrays of a part as tensors, by their names in it."""
    return {
        key.removeprefix(f"{name}/"): torch.from_numpy(value).to(dtype)
        for key, value in vectors.items()
        if key.startswith(f"{name}/")
    }


def parameters(arrays):
    return {key[6:]: value for key, value in arrays.items() if key.startswith("param_")}


def test_the_vectors_are_those_of_the_script_and_small(vectors):
    spec = importlib.util.spec_from_file_location("make_vectors", FOLDER / "make_vectors.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = script.vectors()
    assert made.keys() == vectors.keys()
    for name, value in made.items():
        np.testing.assert_allclose(value, vectors[name], rtol=1e-6, atol=1e-8, err_msg=name)
    assert (FOLDER / "vectors.npz").stat().st_size < 200_000


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_operator_and_its_gradients(vectors, layout):
    v = part(vectors, "op")
    x = v["x"].contiguous(memory_format=layout).requires_grad_()
    offset, weight = v["offset"].requires_grad_(), v["weight"].requires_grad_()
    y = interlace(x, offset, weight, channels=8)
    torch.testing.assert_close(y, v["y"], **EXACT)
    y.backward(v["grad"])
    torch.testing.assert_close(x.grad, v["grad_x"], **DIFFERENCES)
    torch.testing.assert_close(offset.grad, v["grad_offset"], **DIFFERENCES)
    torch.testing.assert_close(weight.grad, v["grad_weight"], **DIFFERENCES)
    whole = interlace(x, v["whole_offset"], weight, channels=8)
    torch.testing.assert_close(whole, v["whole_y"], **EXACT)


def test_the_module_and_its_gradients(vectors):
    v = part(vectors, "module")
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
def test_a_whole_block(vectors, dtype, tolerance):
    v = part(vectors, "block", dtype)
    block = BasicBlock(16, 16, 1, TemporalInterlace(16, num_segments=4, shift_div=4)).to(dtype)
    block.load_state_dict(parameters(v))
    block.eval()
    with torch.no_grad():
        torch.testing.assert_close(block(v["x"]), v["y"], **tolerance)


def test_metrics(vectors):
    v = {key[8:]: value for key, value in vectors.items() if key.startswith("metrics/")}
    found = {
        "map_class": metrics.map_class(v["scores"], v["targets"]),
        "map_sample": metrics.map_sample(v["scores"], v["targets"]),
        "top1": metrics.top_k(v["scores"], v["labels"], 1),
        "top5": metrics.top_k(v["scores"], v["labels"], 5),
        "mean_class": metrics.mean_class_accuracy(v["scores"], v["labels"]),
    }
    assert found == pytest.approx({name: float(v[name]) for name in found}, abs=1e-12)


def test_sampling(vectors):
    v = {key[9:]: value for key, value in vectors.items() if key.startswith("sampling/")}
    clip = load(None).clip
    num_frames, draws = v["num_frames"], v["draws"]
    found = evaluation_frames(num_frames, clip, 1, draws[:, None])
    assert np.array_equal(found[:, 0], v["middle"])
    assert np.array_equal(training_frames(num_frames, clip, draws), v["random"])


def test_the_schedule(vectors):
    config = load(None, ["train.epochs=12", "optim.warmup_epochs=1.5"])
    found = [learning_rate(config, step, steps_per_epoch=3) for step in range(36)]
    np.testing.assert_allclose(found, vectors["schedule/lr"], rtol=1e-12, atol=1e-15)

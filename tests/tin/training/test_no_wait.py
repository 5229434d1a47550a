"""A training step never makes the host wait for a GPU; checked without a GPU by fake tensors.

A fake tensor has a shape and a type, but no values: an operation that needs a value on the host,
such as `item` or `nonzero`, raises an error. Values that go from the host to the device are found
in the operators that run. The fake tensors are on a GPU if torch has CUDA, also on a machine
without one. The autograd of a torch for CPUs rejects that device, so there they are on the CPU.
"""

from types import SimpleNamespace

import pytest
import torch
from short_runs import SETTINGS
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from configs.load import load
from pipeline.batches import Batch
from tin.models import clip_input
from tin.models.network import TIN
from tin.op import interlace
from tin.ranks.distributed import World
from tin.ranks.step_times import StepTimes
from tin.runs import checkpoint
from tin.training import state as state_module
from tin.training import step
from tin.training.state import TrainingState
from tin.training.step import train_step

WAITS = (DataDependentOutputException, DynamicOutputShapeException)
DEVICE = torch.device("cuda", 0) if torch.backends.cuda.is_built() else torch.device("cpu")


class FromHost(TorchDispatchMode):
    """Rejects tensors that are made of values of the host, such as those of `new_tensor`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift.default):
            raise AssertionError("values of the host are copied to the device")
        return func(*args, **(kwargs or {}))


def moved(model, device, memory_format):
    """Do what `Module.to` does, which cannot replace parameters by fake tensors."""
    for module in model.modules():
        for values in (module._parameters, module._buffers):
            for name, value in values.items():
                if value is not None:
                    layout = memory_format if value.dim() == 4 else torch.contiguous_format
                    new = torch.empty(
                        value.shape, dtype=value.dtype, device=device, memory_format=layout
                    )
                    is_parameter = isinstance(value, nn.Parameter)
                    values[name] = nn.Parameter(new, value.requires_grad) if is_parameter else new
    return model


@pytest.fixture(autouse=True)
def gpu_code(monkeypatch):
    """Take the ways that the code takes on a GPU with compiled kernels, from the first step on."""
    monkeypatch.setattr(interlace, "is_compiled", lambda device: True)
    monkeypatch.setattr(checkpoint, "load_newest", lambda run: None)
    monkeypatch.setattr(TIN, "to", moved)
    # A copy of a fake tensor would belong to another mode, so build the moving average instead.
    average = SimpleNamespace(
        deepcopy=lambda _: TIN(6, "resnet18", num_segments=4).to(DEVICE, torch.channels_last)
    )
    monkeypatch.setattr(state_module, "copy", average)
    clip_input._normalization.cache_clear()  # its tensors must belong to this mode
    with FakeTensorMode():
        yield
    clip_input._normalization.cache_clear()


def state_and_batch(*settings):
    """Return the state of a new run of two ranks' worth of clips, and a batch, both on the GPU."""
    config = load(None, [*SETTINGS, "run.device=auto", *settings])
    classes = tuple("abcdef")
    info = SimpleNamespace(classes=classes, multi_label=config.train.loss == "bce")
    state = TrainingState(config, None, World(0, 0, 1, DEVICE), info, num_steps=10)
    with DEVICE:
        labels = torch.zeros(4, len(classes)) if info.multi_label else torch.zeros(4).long()
        x = torch.zeros(4, 4, 1, 32, 32, 3, dtype=torch.uint8)
        batch = Batch(x, labels, torch.zeros(4).long())
    return state, batch


def checked_step(state, batch):
    with FromHost():
        return train_step(state, [batch] * state.config.train.accumulate)


SETTINGS_OF_STEPS = {
    "plain": ["model.temporal=none"],
    "interlace": ["train.bn=partial"],
    "shift": ["model.temporal=shift", "optim.clip_norm=0", "optim.momentum=0"],
    "skip": ["train.nan=skip", "train.ema=0.9", "train.accumulate=2"],
    "groups": ["train.bn_clips=2", "train.accumulate=2", "train.batch=8", "train.nan=skip"],
    "several labels": ["train.loss=bce"],
    "smooth": ["train.label_smoothing=0.1", "optim.groups=single", "optim.nesterov=true"],
    "adamw": ["optim.optimizer=adamw", "train.nan=skip", "train.freeze=layer1"],
}


@pytest.mark.parametrize("settings", SETTINGS_OF_STEPS.values(), ids=SETTINGS_OF_STEPS)
def test_a_step_never_waits_for_the_gpu(settings):
    state, batch = state_and_batch(*settings)
    for _ in range(2):
        norm = checked_step(state, batch)
        assert norm.device == DEVICE
        state.step += 1
    assert all(value.device == DEVICE for value in state.model.parameters())


def test_a_step_with_class_weights_never_waits_for_the_gpu():
    state, batch = state_and_batch()
    with DEVICE:
        state.class_weights = torch.ones(6)
    assert checked_step(state, batch).device == DEVICE


def test_timing_a_step_of_a_rank_never_waits_for_the_gpu():
    state, batch = state_and_batch("train.accumulate=2", "train.batch=8")
    times = StepTimes(World(0, 0, 2, torch.device("cpu")))
    times.watch(state.replica)
    times.start()
    checked_step(state, batch)
    assert times.take()[0] > 0


@pytest.mark.parametrize("wait", [torch.Tensor.item, torch.nonzero, bool, float], ids=str)
def test_a_planted_wait_is_found(monkeypatch, wait):
    real = step.loss

    def waiting(*arguments):
        value = real(*arguments)
        wait(value.detach())
        return value

    monkeypatch.setattr(step, "loss", waiting)
    state, batch = state_and_batch()
    with pytest.raises(WAITS):
        checked_step(state, batch)


def test_a_planted_copy_from_the_host_is_found(monkeypatch):
    real = step.loss
    monkeypatch.setattr(
        step, "loss", lambda logits, *rest: real(logits, *rest) + logits.new_tensor(1)
    )
    state, batch = state_and_batch()
    with pytest.raises(AssertionError, match="values of the host are copied"):
        checked_step(state, batch)


def test_reading_the_number_of_skipped_steps_waits():
    state, _ = state_and_batch()
    with pytest.raises(WAITS):
        state.skipped  # noqa: B018 - reading it is the test

"""The own part of a step ends with its gradients; on a GPU, only the end of an interval waits."""

import time

import pytest
import torch
from torch import nn

from tin.ranks.distributed import World
from tin.ranks.step_times import StepTimes


class FakeEvent:
    """An event of a GPU whose clock moves by one millisecond with each event that is recorded."""

    now_ms = 0.0
    calls: list[str] = []

    def __init__(self, enable_timing: bool):
        assert enable_timing

    def record(self) -> None:
        FakeEvent.now_ms += 1
        self.time_ms = FakeEvent.now_ms
        FakeEvent.calls.append("record")

    def synchronize(self) -> None:
        FakeEvent.calls.append("wait")

    def elapsed_time(self, end: "FakeEvent") -> float:
        return end.time_ms - self.time_ms


def test_the_mean_of_the_steps_stands_at_the_place_of_the_rank(monkeypatch):
    clock = iter([10.0, 12.0, 20.0, 26.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    times = StepTimes(World(1, 0, 3, torch.device("cpu")))
    for _ in range(2):
        times.start()
        times.ready()
    assert times.take() == [0.0, (2 + 6) / 2, 0.0]
    assert times.take() == [0.0, 0.0, 0.0]


def test_the_last_pass_of_a_step_counts(monkeypatch):
    clock = iter([10.0, 11.0, 15.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    times = StepTimes(World(0, 0, 2, torch.device("cpu")))
    times.start()
    times.ready()
    times.ready()
    assert times.take() == [5.0, 0.0]


def test_a_step_on_a_gpu_records_events_and_only_the_interval_waits(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(FakeEvent, "calls", [])
    times = StepTimes(World(0, 0, 2, torch.device("cuda", 0)))
    for passes in (1, 3):
        times.start()
        for _ in range(passes):
            times.ready()
    assert FakeEvent.calls == ["record"] * 6
    assert times.take() == [pytest.approx((0.001 + 0.003) / 2), 0.0]
    assert FakeEvent.calls == ["record"] * 6 + ["wait"]


def test_ready_comes_after_the_gradients_and_before_later_callbacks():
    """DDP waits for the other ranks in a callback that it queues during the backward pass."""
    found = []
    model = nn.Linear(2, 1)
    times = StepTimes(World(0, 0, 2, torch.device("cpu")))
    times.ready = lambda: found.append(("ready", model.weight.grad is not None))
    times.watch(model)
    engine = torch.autograd.Variable._execution_engine

    def wait(_: torch.Tensor) -> None:
        engine.queue_callback(lambda: found.append(("wait", True)))

    model.weight.register_post_accumulate_grad_hook(wait)
    model(torch.ones(3, 2)).sum().backward()
    assert found == [("ready", True), ("wait", True)]


def test_an_evaluation_is_not_timed():
    model = nn.Linear(2, 1)
    times = StepTimes(World(0, 0, 2, torch.device("cpu")))
    times.watch(model)
    with torch.no_grad():
        model(torch.ones(3, 2))
    assert times.take() == [0.0, 0.0]


@pytest.mark.gpu
def test_work_after_the_gradients_is_not_timed_on_a_gpu():
    times = StepTimes(World(0, 0, 2, torch.device("cuda", 0)))
    x = torch.ones(4096, 4096, device="cuda")
    x @ x  # the first call loads the library
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(3):
        times.start()
        x @ x
        times.ready()
        for _ in range(100):
            x @ x
    own_s = times.take()[0]
    torch.cuda.synchronize()
    assert 0 < own_s < 0.1 * (time.perf_counter() - began)

"""Broken, throttled and shared GPUs, as a stand-in for NVIDIA's library reports them."""

import logging
import os
from types import SimpleNamespace

import pytest
import torch

from tin.ranks import gpu_health
from tin.ranks.gpu_health import GpuHealth
from tin.ranks.node_check import NodeError


class FakeNvml:
    """A driver with one GPU."""

    class NVMLError(Exception):
        """What the library raises, for a timeout too."""

    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    nvmlEventTypeXidCriticalError = 8
    nvmlClocksThrottleReasonHwThermalSlowdown = 0x40
    nvmlClocksThrottleReasonHwPowerBrakeSlowdown = 0x80

    def __init__(self) -> None:
        self.errors: int | None = 0
        self.remapping_failed = 0
        self.xids: list[int] = []
        self.reasons = 0
        self.pids = [os.getpid()]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-1"
        return "gpu"

    def nvmlEventSetCreate(self) -> str:
        return "events"

    def nvmlDeviceRegisterEvents(self, gpu: str, kind: int, events: str) -> None:
        assert (gpu, kind, events) == ("gpu", 8, "events")

    def nvmlDeviceGetTotalEccErrors(self, gpu: str, kind: int, counter: int) -> int:
        if self.errors is None:
            raise self.NVMLError("not supported")
        return self.errors

    def nvmlDeviceGetRemappedRows(self, gpu: str) -> tuple[int, int, int, int]:
        return 0, 0, 0, self.remapping_failed

    def nvmlEventSetWait_v2(self, events: str, timeout_ms: int) -> SimpleNamespace:
        if not self.xids:
            raise self.NVMLError("timeout")
        return SimpleNamespace(eventData=self.xids.pop(0))

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: str) -> int:
        return self.reasons

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid) for pid in self.pids]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setattr(gpu_health, "_nvml", lambda: fake)
    monkeypatch.setattr(gpu_health, "_uuid", lambda device: "GPU-1")
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    return fake


def health() -> GpuHealth:
    return GpuHealth(torch.device("cuda", 0))


def test_a_healthy_gpu_passes(nvml: FakeNvml, caplog: pytest.LogCaptureFixture):
    health().check()
    assert not caplog.records


def test_memory_errors_name_the_node_and_the_gpu(nvml: FakeNvml):
    nvml.errors = 3
    with pytest.raises(NodeError, match="node7: cuda:0 is broken: 3 uncorrected memory errors"):
        health().check()


def test_a_row_that_cannot_be_remapped_is_a_fault_also_without_counters(nvml: FakeNvml):
    nvml.errors = None
    nvml.remapping_failed = 1
    with pytest.raises(NodeError, match="could not be remapped"):
        health().check()


def test_an_error_of_the_hardware_between_two_checks_is_seen(nvml: FakeNvml):
    gpu = health()
    gpu.check()
    nvml.xids = [31, 79]  # 31 is a page fault of a program
    with pytest.raises(NodeError, match="Xid 79, GPU has fallen off the bus"):
        gpu.check()


def test_errors_of_programs_are_no_fault_of_the_gpu(nvml: FakeNvml):
    nvml.xids = [13, 31, 43]
    health().check()


def test_throttling_and_foreign_processes_are_warnings(
    nvml: FakeNvml, caplog: pytest.LogCaptureFixture
):
    nvml.reasons = 0x40
    nvml.pids = [os.getpid(), 12]
    with caplog.at_level(logging.WARNING):
        health().check()
    assert "node7: cuda:0 runs at a lower clock, because it is too hot" in caplog.text
    assert "node7: cuda:0 is also used by other processes: 12" in caplog.text


def test_processes_are_not_compared_in_a_container(
    nvml: FakeNvml, caplog: pytest.LogCaptureFixture
):
    nvml.pids = [12, 13]  # the driver does not know this process by its number
    health().check()
    assert not caplog.records


def test_without_a_gpu_nothing_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu_health, "_nvml", lambda: pytest.fail("asked"))
    GpuHealth(torch.device("cpu")).check()

"""What the driver knows about a GPU: memory errors, faults, throttling, processes of others.

The package nvidia-ml-py is optional; without it, or without a GPU, nothing is checked.
"""

import contextlib
import importlib
import logging
import os
from types import ModuleType
from typing import Any

import torch

from configs.node import node_name
from tin.ranks.node_check import NodeError

log = logging.getLogger(__name__)
HARDWARE_XIDS = {
    48: "double-bit memory error",
    62: "internal halt of a microcontroller",
    63: "row of memory to be remapped",
    64: "row of memory that cannot be remapped",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    92: "many single-bit memory errors",
    94: "contained memory error",
    95: "uncontained memory error",
    119: "GSP does not answer",
    120: "GSP error",
}
"""Xid errors that come from the hardware. Others, such as 13 and 31, come from programs.

Source: NVIDIA's "XID Errors", section on common Xid errors.
"""
SLOWDOWNS = {
    "nvmlClocksThrottleReasonHwThermalSlowdown": "it is too hot",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "its power supply asks for it",
}
"""Why the hardware lowers the clock of a GPU to half or less."""


class GpuHealth:
    """Checks the GPU of this rank; errors that occur later than its creation are seen too."""

    def __init__(self, device: torch.device):
        self._device = device
        self._nvml = _nvml() if device.type == "cuda" else None
        self._gpu: Any = None
        self._events: Any = None
        if not self._nvml:
            return
        # Some GPUs and some virtual machines do not tell everything.
        with contextlib.suppress(self._nvml.NVMLError):
            self._gpu = self._nvml.nvmlDeviceGetHandleByUUID(_uuid(device))
            events = self._nvml.nvmlEventSetCreate()
            kind = self._nvml.nvmlEventTypeXidCriticalError
            self._nvml.nvmlDeviceRegisterEvents(self._gpu, kind, events)
            self._events = events

    def check(self) -> None:
        """Raise an error if the GPU is broken; warn if it is throttled or used by others.

        Raises:
            NodeError: names the node, the GPU and the fault.
        """
        if not self._nvml or self._gpu is None:
            return
        fault = self._memory_fault() or self._xid()
        if fault:
            raise NodeError(f"{node_name()}: {self._device} is broken: {fault}")
        for text in (self._slowdown(), self._foreign_processes()):
            if text:
                log.warning("%s: %s %s", node_name(), self._device, text)

    def _memory_fault(self) -> str:
        nvml = self._nvml
        assert nvml
        with contextlib.suppress(nvml.NVMLError):
            errors = nvml.nvmlDeviceGetTotalEccErrors(
                self._gpu, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            )
            if errors:
                return f"{errors} uncorrected memory errors (ECC) since its last reset"
        with contextlib.suppress(nvml.NVMLError):
            *_, has_failed = nvml.nvmlDeviceGetRemappedRows(self._gpu)
            if has_failed:
                return "a row of its memory could not be remapped"
        return ""

    def _xid(self) -> str:
        """Return the first Xid error of the hardware since the last check."""
        nvml = self._nvml
        assert nvml
        while self._events is not None:
            try:
                event = nvml.nvmlEventSetWait_v2(self._events, 0)
            except nvml.NVMLError:  # a timeout: there is no further event
                break
            if event.eventData in HARDWARE_XIDS:
                return f"Xid {event.eventData}, {HARDWARE_XIDS[event.eventData]}"
        return ""

    def _slowdown(self) -> str:
        nvml = self._nvml
        assert nvml
        with contextlib.suppress(nvml.NVMLError):
            reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._gpu)
            for name, text in SLOWDOWNS.items():
                if reasons & getattr(nvml, name):
                    return f"runs at a lower clock, because {text}"
        return ""

    def _foreign_processes(self) -> str:
        nvml = self._nvml
        assert nvml
        with contextlib.suppress(nvml.NVMLError):
            listed = nvml.nvmlDeviceGetComputeRunningProcesses(self._gpu)
            pids = {process.pid for process in listed}
            # In a container, the numbers of processes are not those that the driver knows.
            if os.getpid() in pids and len(pids) > 1:
                others = ", ".join(map(str, sorted(pids - {os.getpid()})))
                return f"is also used by other processes: {others}"
        return ""


def _nvml() -> ModuleType | None:
    """Return the library of the driver, ready for use; None if it is missing."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def _uuid(device: torch.device) -> str:
    """Return the name of a GPU that does not depend on CUDA_VISIBLE_DEVICES."""
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"

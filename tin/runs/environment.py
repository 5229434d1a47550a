"""What an attempt runs on: versions, commit and hardware."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from configs.node import node_name
from tin.runs.commit import commit

PACKAGES = "tin-video torch numpy nvidia-dali-cuda130 nvidia-dali-cuda120 av simplejpeg".split()


def describe_environment(device: str, world_size: int) -> dict[str, Any]:
    """Return versions, commit and hardware as environment-<attempt>.json records them."""
    return {
        "launched": time.time() - _process_age_s(),
        "started": time.time(),
        "host": node_name(),
        "job_id": os.environ.get("SLURM_JOB_ID", ""),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "python": platform.python_version(),
        "commit": os.environ.get("TIN_COMMIT") or commit(),
        "world_size": world_size,
        "device": device,
        "hardware": {"cpus": os.cpu_count(), "machine": platform.machine(), "gpu": _gpu(device)},
    }


def _process_age_s() -> float:
    """Return the seconds since this process started; 0 where Linux does not tell.

    psutil's `create_time` can be a second wrong: it counts from a boot time in whole seconds.
    Source: proc_pid_stat(5), field 22 `starttime`, in clock ticks after the start of the system.
    """
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started_s = int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")  # the first one is field 3
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - started_s, 0.0)
    except (OSError, ValueError, IndexError):
        return 0.0


def _gpu(device: str) -> str:
    if not device.startswith("cuda"):
        return ""
    import torch

    return torch.cuda.get_device_name(device)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""

"""What an attempt runs on: versions, commit and hardware."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from configs.node import node_name
from tin.runs.commit import commit

PACKAGES = "tin-video torch numpy nvidia-dali-cuda130 nvidia-dali-cuda120 av simplejpeg".split()


def describe_environment(device: str, world_size: int) -> dict[str, Any]:
    """Return versions, commit and hardware as environment-<attempt>.json records them."""
    return {
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

"""`tin check`: what this machine offers, and which installation fits it. It changes nothing."""

import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import psutil

from configs.load import cache_path, load_site
from launch.slurm_query import SlurmError, ask

GPU_QUERY = "name,driver_version,memory.total,compute_cap"
CUDA13_DRIVER = 580
CUDA13_CAPABILITY = 7.5
"""What the wheels for CUDA 13 need at least; a V100 (7.0) is too old."""
CUDA12_DRIVER = 525
PACKAGES = ("tin-video", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "submitit")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class Row(NamedTuple):
    """One line of the check."""

    name: str
    found: str
    advice: str = ""
    """What to do about it; empty if nothing."""


class Gpu(NamedTuple):
    """A GPU as nvidia-smi describes it."""

    name: str
    driver: str
    memory_mib: str
    capability: str


def look() -> Iterator[Row]:
    """Yield what this machine offers, and what to do where something is missing."""
    yield Row("python", f"{platform.python_version()} on {platform.platform()}")
    gpus = _gpus()
    yield from _software(gpus)
    yield from _processor()
    yield _slurm()
    yield from _folders()
    yield _network()
    yield Row("install", install_line(gpus))


def install_line(gpus: list[Gpu]) -> str:
    """Return the pip command that fits. The DALI extra depends on the driver, not on the toolkit.

    Args:
        gpus: all GPUs of this machine; the oldest one decides.
    """
    if not gpus:  # DALI for CUDA 13 decodes on the CPU without any driver
        return "pip install 'tin-video[cuda13]'  # the CPU build of torch is enough"
    driver = min(int(gpu.driver.split(".")[0]) for gpu in gpus)
    capability = min(float(gpu.capability) for gpu in gpus)
    if driver >= CUDA13_DRIVER and capability >= CUDA13_CAPABILITY:
        return "pip install 'tin-video[cuda13]'"
    if driver >= CUDA12_DRIVER:
        return "pip install 'tin-video[cuda12]'  # with torch's build for CUDA 12.6"
    return f"none: driver {driver} is older than {CUDA12_DRIVER}; update it"


def _gpus() -> list[Gpu]:
    command = ["nvidia-smi", f"--query-gpu={GPU_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    return [Gpu(*line.split(", ")) for line in done.stdout.splitlines()]


def _software(gpus: list[Gpu]) -> Iterator[Row]:
    """Yield the GPUs, whether torch can use them, and the versions of packages."""
    for number, gpu in enumerate(gpus):
        memory = f"{int(gpu.memory_mib) / 1024:.0f} GiB"
        text = f"{gpu.name}, {memory}, compute {gpu.capability}, driver {gpu.driver}"
        yield Row(f"GPU {number}", text)
    if not gpus:
        yield Row("GPU", "none found by nvidia-smi", "training and decoding run on the CPU")
    import torch

    cuda = torch.version.cuda
    num_seen = torch.cuda.device_count()
    is_unusable = gpus and not torch.cuda.is_available()
    yield Row(
        "torch",
        f"{torch.__version__}, CUDA {cuda or 'none'}, sees {num_seen} GPUs",
        "torch cannot use the GPUs: see the line install" if is_unusable else "",
    )
    if cuda:
        yield Row("architectures", " ".join(torch.cuda.get_arch_list()))
    versions = {name: found for name in PACKAGES if (found := _version(name))}
    has_dali = any("dali" in name for name in versions)
    yield Row(
        "packages",
        ", ".join(f"{name} {found}" for name, found in versions.items()),
        "" if has_dali else "DALI is not installed: see the line install",
    )


def _processor() -> Iterator[Row]:
    """Yield the CPUs and the memory, with the limits of Slurm and of the control group."""
    num_usable = len(os.sched_getaffinity(0))
    given = os.environ.get("SLURM_CPUS_PER_TASK")
    text = f"{os.cpu_count()}, this process may use {num_usable}"
    advice = ""
    if given:
        text += f", Slurm gave it {given}"
        if num_usable < int(given):
            advice = "pass --cpus-per-task to srun, too"
    yield Row("CPUs", text, advice)

    memory = psutil.virtual_memory()
    text = f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} free"
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.exists() else "max"
    if limit.isdigit():
        text += f", limited to {int(limit) / 2**30:.1f}"
    yield Row("memory", text)


def _slurm() -> Row:
    if not shutil.which("sbatch"):
        return Row("Slurm", "none", "--cluster local runs jobs on this machine")
    try:
        partitions = ask("sinfo", "-h", "-o", "%R %D x %c CPUs %m MB %G").splitlines()
        release = ask("sinfo", "--version").split()[1]
    except SlurmError as error:
        return Row("Slurm", "does not answer", str(error).splitlines()[0])
    return Row("Slurm", f"{release}; {'; '.join(partitions)}")


def _folders() -> Iterator[Row]:
    """Yield the folders that `site.yaml` names, with their file systems and free space."""
    site = load_site()
    folders = {"runs": site.runs or ".", "cache": str(cache_path()), "shared memory": "/dev/shm"}
    if site.local:
        folders["local disk"] = os.path.expandvars(site.local)
    for name, text in folders.items():
        path = Path(text).expanduser()
        is_writable = os.access(_existing(path), os.W_OK)
        yield Row(name, _space(path), "" if is_writable else "cannot be written")
    for name, text in site.datasets.items():
        path = Path(text).expanduser()
        is_dataset = (path / "dataset.yaml").exists()
        advice = "" if is_dataset else "has no dataset.yaml"
        yield Row(f"data {name}", _space(path), advice)


def _space(path: Path) -> str:
    """Return a folder with the file system and the space that it has, or would have."""
    folder = _existing(path)
    usage = shutil.disk_usage(folder)
    space = f"{usage.free / 1e9:.0f} of {usage.total / 1e9:.0f} GB free"
    return f"{path}: {_file_system(folder)}, {space}"


def _existing(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def _file_system(path: Path) -> str:
    """Return the type of the file system that holds a path."""
    deepest = ""
    found = "unknown"
    for partition in psutil.disk_partitions(all=True):
        place = partition.mountpoint
        if path.resolve().is_relative_to(place) and len(place) >= len(deepest):
            deepest = place
            found = partition.fstype
    return found


def _network() -> Row:
    """Return the address of this host as other nodes see it, and the links that are up."""
    name = socket.gethostname()
    advice = ""
    try:
        address = socket.gethostbyname(name)
    except OSError:
        address = "no address"
        advice = "other nodes cannot find this host: ask for an entry in their hosts file or DNS"
    if address.startswith("127."):
        advice = "the name leads back to this host only: ranks on other nodes cannot connect"

    links = []
    for link, stats in sorted(psutil.net_if_stats().items()):
        if stats.isup and "loopback" not in stats.flags:
            speed = f" {stats.speed / 1000:g} Gbit/s" if stats.speed else ""
            links.append(f"{link}{speed}")
    if len(links) > 1 and not advice:
        advice = "choose one in NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME"
    return Row("network", f"{name} is {address}; {', '.join(links) or 'no link is up'}", advice)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""

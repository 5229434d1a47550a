"""`tin check`: what this machine has, and what fits it. It needs nothing but the package."""

import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from configs.load import cache_path, load_site
from launch.slurm_query import SlurmError, ask

GPU_QUERY = "name,driver_version,memory.total,compute_cap"
CUDA13 = (580, 7.5)  # driver and compute capability that CUDA 13's wheels need; V100 (7.0) is out
CUDA12 = 525
Row = tuple[str, str, str]


def look() -> Iterator[Row]:
    """Yield what there is: a name, what was found, and what to do about it (mostly nothing)."""
    yield "python", f"{platform.python_version()} on {platform.platform()}", ""
    gpus = _gpus()
    yield from _software(gpus)
    yield from _processor()
    yield from _slurm()
    yield from _folders()
    yield from _network()
    yield "install", install_line(gpus), ""


def install_line(gpus: list[list[str]]) -> str:
    """Return the line of pip that fits: the DALI extra follows the driver, not the toolkit.

    Args:
        gpus: name, driver, memory in MiB and compute capability of each.
    """
    if not gpus:  # DALI for CUDA 13 decodes on the CPU without any driver
        return "pip install 'tin-video[cuda13]'  # the CPU build of torch is enough"
    driver = min(int(gpu[1].split(".")[0]) for gpu in gpus)
    capability = min(float(gpu[3]) for gpu in gpus)
    if driver >= CUDA13[0] and capability >= CUDA13[1]:
        return "pip install 'tin-video[cuda13]'"
    if driver >= CUDA12:
        return "pip install 'tin-video[cuda12]'  # with torch's build for CUDA 12.6"
    return f"none: driver {driver} is older than {CUDA12}; update it"


def _gpus() -> list[list[str]]:
    command = ["nvidia-smi", f"--query-gpu={GPU_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.split(", ") for line in done.stdout.splitlines()] if not done.returncode else []


def _software(gpus: list[list[str]]) -> Iterator[Row]:
    for number, (name, driver, memory, capability) in enumerate(gpus):
        found = f"{name}, {int(memory) / 1024:.0f} GiB, compute {capability}, driver {driver}"
        yield f"GPU {number}", found, ""
    if not gpus:
        yield "GPU", "none that nvidia-smi knows", "the CPU computes and decodes"
    import torch

    cuda = torch.version.cuda
    found = f"{torch.__version__}, CUDA {cuda or 'none'}, sees {torch.cuda.device_count()} GPUs"
    advice = (
        "torch cannot use the GPUs: see install" if gpus and not torch.cuda.is_available() else ""
    )
    yield "torch", found, advice
    if cuda:
        yield "architectures", " ".join(torch.cuda.get_arch_list()), ""
    names = ("tin-video", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "submitit")
    found = ", ".join(f"{name} {there}" for name in names if (there := _version(name)))
    yield "packages", found, "" if "dali" in found else "DALI is absent: see install"


def _processor() -> Iterator[Row]:
    allowed, given = len(os.sched_getaffinity(0)), os.environ.get("SLURM_CPUS_PER_TASK")
    found = f"{os.cpu_count()}, this process may use {allowed}"
    advice = ""
    if given:
        found += f", Slurm gave it {given}"
        advice = "srun needs --cpus-per-task too" if allowed < int(given) else ""
    yield "CPUs", found, advice
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(facts[name].split()[0]) / 2**20 for name in ("MemTotal", "MemAvailable"))
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    capped = f", limited to {int(text) / 2**30:.1f}" if text.isdigit() else ""
    yield "memory", f"{total:.1f} GiB, {free:.1f} free{capped}", ""


def _slurm() -> Iterator[Row]:
    if not shutil.which("sbatch"):
        yield "Slurm", "none", "--cluster local runs jobs here"
        return
    try:
        found = ask("sinfo", "-h", "-o", "%R %D x %c CPUs %m MB %G").splitlines()
    except SlurmError as error:
        yield "Slurm", "does not answer", str(error).splitlines()[0]
        return
    yield "Slurm", f"{ask('sinfo', '--version').split()[1]}; {'; '.join(found)}", ""


def _folders() -> Iterator[Row]:
    site = load_site()
    folders = {"runs": site.runs or ".", "cache": str(cache_path()), "shared memory": "/dev/shm"}
    if site.local:
        folders["local disk"] = os.path.expandvars(site.local)
    for name, folder in {**folders, **{f"data {k}": v for k, v in site.datasets.items()}}.items():
        yield name, *_folder(Path(folder).expanduser(), must_exist=name.startswith("data "))


def _folder(path: Path, *, must_exist: bool) -> tuple[str, str]:
    there = path
    while not there.exists():
        there = there.parent
    usage = shutil.disk_usage(there)
    found = (
        f"{path}: {_file_system(there)}, {usage.free / 1e9:.0f} of {usage.total / 1e9:.0f} GB free"
    )
    if must_exist and not (path / "dataset.yaml").exists():
        return found, "holds no dataset.yaml"
    return found, "" if os.access(there, os.W_OK) or must_exist else "cannot be written"


def _file_system(path: Path) -> str:
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if path.resolve().is_relative_to(place) and len(place) >= len(best[0]):
            best = (place, kind)
    return best[1]


def _network() -> Iterator[Row]:
    name = socket.gethostname()
    try:
        address, advice = socket.gethostbyname(name), ""
    except OSError:
        address, advice = "no address", "other nodes cannot meet here: ask for a hosts entry"
    if address.startswith("127."):
        advice = "its name leads to itself only: ranks of other nodes cannot meet here"
    links = []
    for folder in sorted(Path("/sys/class/net").iterdir()):
        try:
            if (folder / "operstate").read_text().strip() == "up":
                speed = int((folder / "speed").read_text())
                links.append(f"{folder.name} {speed / 1000:g} Gbit/s" if speed > 0 else folder.name)
        except (OSError, ValueError):
            links.append(folder.name)
    several = "name one in NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME" if len(links) > 1 else ""
    yield (
        "network",
        f"{name} is {address}; {', '.join(links) or 'no link is up'}",
        advice or several,
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""

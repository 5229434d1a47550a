"""Finds the CUDA toolkit of this machine, and the GPUs to compile for."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

ARCHITECTURES = ("8.0", "9.0", "9.0+PTX")  # A100, H100, and later GPUs


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit."""

    nvcc: str
    root: Path
    version: str


def find_toolkit() -> Toolkit | None:
    """Return the toolkit of the nvcc on PATH, in CUDA_HOME, from PyPI, or in /usr/local/cuda."""
    for nvcc in filter(lambda path: os.access(path, os.X_OK), _compilers()):
        # The nvcc on PATH may be a script. A dry run prints the folder of the real compiler.
        dry_run = _run(nvcc, "--dryrun", "-x", "cu", "/dev/null")
        top = re.search(r"^#\$ TOP=(.+)$", dry_run.stderr, re.MULTILINE)
        release = re.search(r"release (\d+\.\d+)", _run(nvcc, "--version").stdout)
        if top and release:
            return Toolkit(str(nvcc), Path(top[1].strip()).resolve(), release[1])
    return None


def architectures() -> tuple[str, ...]:
    """Return the compute capabilities to compile for: 9.0, or 9.0+PTX to include later GPUs.

    TORCH_CUDA_ARCH_LIST names them ("7.5 8.6+PTX"). A letter, as in 9.0a, asks for features of one
    kind of GPU that the operator does not use, and is dropped. Without the variable, and with a
    torch that has CUDA, they are those of the machine's GPUs, or `ARCHITECTURES` on a machine
    without a GPU. A torch without CUDA needs none.

    Raises:
        ValueError: TORCH_CUDA_ARCH_LIST cannot be read.
    """
    names = re.findall(r"[^;, ]+", os.environ.get("TORCH_CUDA_ARCH_LIST", ""))
    for name in names:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name):
            raise ValueError(
                f"TORCH_CUDA_ARCH_LIST: found {name}, expected a compute capability such as 8.0 or"
                " 9.0+PTX"
            )
    if names or torch.version.cuda is None:
        return tuple(dict.fromkeys(re.sub("[af]", "", name) for name in names))
    here = tuple(f"{major}.{minor}" for major, minor in sorted(capabilities()))
    return here or ARCHITECTURES


def capabilities() -> set[tuple[int, int]]:
    """Return the compute capabilities of this machine's GPUs."""
    return {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}


def gencode(names: Sequence[str]) -> list[str]:
    """Return nvcc's flags for these compute capabilities."""
    flags = []
    for name in names:
        plain = name.removesuffix("+PTX")
        number = plain.replace(".", "")
        kind = "compute" if name.endswith("+PTX") else "sm"
        flags.append(f"-gencode=arch=compute_{number},code={kind}_{number}")
        # With PTX alone, a GPU of this very capability would compile it at run time.
        if name.endswith("+PTX") and plain not in names:
            flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
    return flags


def _compilers() -> Iterator[Path]:
    """Yield the paths at which nvcc may be, the preferred one first."""
    if on_path := shutil.which("nvcc"):
        yield Path(on_path)
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if root := os.environ.get(name):
            yield Path(root, "bin", "nvcc")
    for folder in sys.path:
        yield from sorted(Path(folder).glob("nvidia/cu[0-9]*/bin/nvcc"))
    yield Path("/usr/local/cuda/bin/nvcc")


def _run(*command: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)

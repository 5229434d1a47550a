"""Compiles the operator of cuda/, once for each kind of machine, and finds compiled libraries.

The name of a library says what it was compiled from and for:
``interlace-<sources>-torch<version>-<processor>[-cuda<version>-<architectures>].so``. Libraries are
in ``ops`` of the cache. They are written atomically, so any library that is found can be loaded.
"""

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from configs.digests import file_digest, write_digest
from configs.files import atomic_file
from configs.load import cache_path
from tin.op.cuda_toolkit import Toolkit, architectures, capabilities, find_toolkit, gencode
from tin.op.trust import BuildError as BuildError
from tin.op.trust import check_trust, is_complete

log = logging.getLogger(__name__)

# Fused multiply-adds are off, so that results do not depend on the processor.
CXX_FLAGS = ["-std=c++17", "-O2", "-fPIC", "-ffp-contract=off", "-fno-trapping-math", "-Wno-psabi"]
NVCC_FLAGS = ["-std=c++17", "-O3", "-lineinfo", "-Xcompiler", "-fPIC", "--threads", "0"]
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # the stable ABI of torch 2.11
MAX_COMPILER_OUTPUT = 4000  # characters of the compiler's output in an error message


@dataclass(frozen=True)
class Library:
    """A compiled operator."""

    path: Path
    cuda: str
    """Version of the CUDA toolkit; empty for a library without CUDA."""
    architectures: tuple[str, ...]
    """Compute capabilities: 9.0 has machine code, 9.0+PTX also has code for later GPUs."""

    def runs_on(self, capability: tuple[int, int]) -> bool:
        """Tell whether a GPU of this compute capability can run the library."""
        for architecture in self.architectures:
            number, _, later = architecture.partition("+")
            major, minor = map(int, number.split("."))
            same_generation = capability[0] == major and capability[1] >= minor
            if same_generation or (later and capability >= (major, minor)):
                return True
        return False

    def __str__(self) -> str:
        kinds = f"CUDA {self.cuda} for {' '.join(self.architectures)}" if self.cuda else "CPU only"
        return f"{self.path}: torch {torch.__version__}, {platform.machine()}, {kinds}"


def build() -> Library:
    """Compile the operator unless a library exists already; return the library.

    CUDA kernels are included if a toolkit is found and `tin.op.cuda_toolkit.architectures` names a
    GPU. Any number of processes may call this at the same time.

    Raises:
        BuildError: no compiler was found, or it failed; the message ends with its output.
        WriteError: the library cannot be written to the cache.
    """
    names = architectures()
    toolkit = find_toolkit() if names else None
    if names and toolkit is None:
        log.warning(
            "no CUDA toolkit found: the operator is compiled for the CPU only; set CUDA_HOME to"
            " the toolkit's folder and build again"
        )
    library = _library(toolkit, names)
    if is_complete(library.path):  # checked before anything is written: the cache may be read-only
        return library
    library.path.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(library.path.parent / "lock"):
        if not is_complete(library.path):
            _compile(library, toolkit)
    return library


def built() -> Iterator[Library]:
    """Yield the libraries in the cache that were compiled from these sources for this torch."""
    for path in sorted(_folder().glob(f"{_prefix()}*.so")):
        _, cuda, names = (path.stem.removeprefix(_prefix()) or "--").split("-")
        yield Library(path, cuda.removeprefix("cuda"), tuple(filter(None, names.split("_"))))


def find(device_type: str = "cpu") -> Library:
    """Return the library for this torch, this processor and, with "cuda", this machine's GPUs.

    Raises:
        BuildError: no such library exists.
    """
    found = list(built())
    # A library for the GPUs also has the CPU's operator, so prefer it for both devices.
    for_gpus = [library for library in found if all(map(library.runs_on, capabilities()))]
    if for_gpus or device_type == "cuda":
        found = for_gpus
    if not found:
        raise BuildError(
            f"no compiled operator for torch {torch.__version__} and {device_type} in"
            f" {_folder()}: run `tin op build` once"
        )
    return max(found, key=lambda library: (library.cuda, library.path.stat().st_mtime))


def load(device_type: str) -> None:
    """Load the library that `find` returns into this process.

    Raises:
        BuildError: no library exists, it cannot be trusted, or this machine cannot load it.
    """
    library = find(device_type)
    check_trust(library.path)
    try:
        torch.ops.load_library(library.path)
    except OSError as error:  # for example, it was compiled on a newer system
        reason = error.__cause__ or error  # torch's own message only says that loading failed
        raise BuildError(
            f"cannot load the compiled operator: {reason}; remove {library.path} and run"
            " `tin op build` here"
        ) from None


def _folder() -> Path:
    return cache_path() / "ops"


def _source_files() -> list[Path]:
    """Return the sources in the folder `cuda` beside the package `tin`.

    `import cuda` would not do: it may find NVIDIA's package of that name.
    """
    folder = Path(__file__).resolve().parents[2] / "cuda"
    found = sorted(path for path in folder.glob("*") if path.suffix in (".cpp", ".cu", ".h"))
    if not found:
        raise BuildError(
            f"{folder} has no sources of the operator, expected interlace.cu and others; install"
            " tin-video again"
        )
    return found


@functools.cache
def _prefix() -> str:
    """Return how the names of libraries begin: a digest of sources and flags, torch, processor."""
    digest = hashlib.sha256(repr([CXX_FLAGS, NVCC_FLAGS, STABLE_ABI]).encode())
    for path in _source_files():
        digest.update(path.read_bytes())
    return f"interlace-{digest.hexdigest()[:12]}-torch{torch.__version__}-{platform.machine()}"


def _library(toolkit: Toolkit | None, names: tuple[str, ...]) -> Library:
    """Return the library that `build` would write; its file need not exist."""
    if toolkit is None:
        return Library(_folder() / f"{_prefix()}.so", "", ())
    name = f"{_prefix()}-cuda{toolkit.version}-{'_'.join(names)}.so"
    return Library(_folder() / name, toolkit.version, names)


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Make other processes wait for this one by a lock, if the file system supports locks.

    Without locks several processes compile, and the library of the last one remains.
    """
    with path.open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(library: Library, toolkit: Toolkit | None) -> None:
    """Compile the sources in a temporary folder and put the result into the cache."""
    cxx = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if cxx is None:
        raise BuildError("no C++ compiler found: set CXX, or install g++")
    with tempfile.TemporaryDirectory(prefix="tin-op-") as folder:
        Path(folder, "build.ninja").write_text(_rules(cxx, toolkit, library.architectures))
        done = subprocess.run(
            [sys.executable, "-m", "ninja", "--quiet"],
            cwd=folder,
            env=os.environ | {"LC_ALL": "C"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            # Keep the output of the first command that failed, without ninja's own lines.
            output = done.stdout.partition("FAILED: ")[2] or done.stdout
            output = output.partition("\nninja: ")[0].strip()
            raise BuildError(f"the operator did not compile; {output[-MAX_COMPILER_OUTPUT:]}")
        with Path(folder, "library.so").open("rb") as compiled, atomic_file(library.path) as file:
            shutil.copyfileobj(compiled, file)
    # The digest comes last: a library with a digest is complete.
    write_digest(library.path, file_digest(library.path))


def _rules(cxx: str, toolkit: Toolkit | None, names: Sequence[str]) -> str:
    """Return the text of build.ninja, which compiles each source and links library.so."""
    home = Path(torch.__file__).parent
    flags = [*CXX_FLAGS, STABLE_ABI, "-isystem", str(home / "include")]
    link = [f"-L{home / 'lib'}", "-ltorch_cpu", "-lc10"]
    objects = ["binding", "interlace_cpu"]
    nvcc: list[str] = []
    if toolkit:
        # The CUDA runtime is linked statically: the library needs none on the machine it runs on.
        flags.append("-DTIN_WITH_CUDA")
        nvcc = [toolkit.nvcc, *NVCC_FLAGS, *gencode(names)]
        objects += ["interlace", "nets"]
        libraries = [toolkit.root / part for part in ("lib64", "lib", "targets/x86_64-linux/lib")]
        link += [f"-L{path}" for path in libraries if path.exists()]
        link += ["-lcudart_static", "-ldl", "-lrt", "-lpthread", "-Wl,--exclude-libs,ALL"]
    sources = {path.stem: path for path in _source_files() if path.suffix in (".cpp", ".cu")}
    lines = [
        _rule("cpp", [*shlex.split(cxx), *flags, "-c"]),
        _rule("cu", [*nvcc, "-c"]),
        _rule("link", [*shlex.split(cxx), "-shared"], link),
    ]
    for name in objects:
        kind = sources[name].suffix.removeprefix(".")
        lines.append(f"build {name}.o: {kind} {_escape(str(sources[name]))}")
    lines.append(f"build library.so: link {' '.join(f'{name}.o' for name in objects)}")
    return "\n".join(lines) + "\n"


def _rule(name: str, command: Sequence[str], after: Sequence[str] = ()) -> str:
    """Return a rule of ninja; ``after`` are the arguments that follow the output file."""
    before, end = (shlex.join(part).replace("$", "$$") for part in (command, after))
    return f"rule {name}\n  command = {before} $in -o $out {end}"


def _escape(path: str) -> str:
    return re.sub(r"([$ :])", r"$\1", path)

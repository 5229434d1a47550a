"""Compiles the operators of cuda/, once for each kind of machine, and finds what was compiled.

A library's name says what it was compiled from and for:
``interlace-<sources>-torch<version>-<processor>[-cuda<version>-<architectures>].so``. It lies in
``ops`` of the cache and is put there whole; whoever finds it may load it.
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

from configs.errors import TinError
from configs.load import cache_path
from tin.op.cuda_toolkit import Toolkit, architectures, capabilities, find_toolkit, gencode

log = logging.getLogger(__name__)

# No fused multiply-add, so that a result does not depend on the processor.
CXX_FLAGS = ["-std=c++17", "-O2", "-fPIC", "-ffp-contract=off", "-fno-trapping-math", "-Wno-psabi"]
NVCC_FLAGS = ["-std=c++17", "-O3", "-lineinfo", "-Xcompiler", "-fPIC", "--threads", "0"]
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # of torch 2.11


class BuildError(TinError):
    """There is no compiled operator, or it cannot be compiled; says what to do."""


@dataclass(frozen=True)
class Library:
    """A compiled operator."""

    path: Path
    cuda: str
    """Version of the CUDA toolkit, empty for a CPU only."""
    architectures: tuple[str, ...]
    """Compute capabilities with machine code (9.0), or code for later ones too (9.0+PTX)."""

    def runs_on(self, capability: tuple[int, int]) -> bool:
        """Tell whether a GPU of this compute capability can run it."""
        for architecture in self.architectures:
            number, _, later = architecture.partition("+")
            major, minor = map(int, number.split("."))
            same = capability[0] == major and capability[1] >= minor
            if same or (later and capability >= (major, minor)):
                return True
        return False

    def __str__(self) -> str:
        kinds = f"CUDA {self.cuda} for {' '.join(self.architectures)}" if self.cuda else "CPU only"
        return f"{self.path}: torch {torch.__version__}, {platform.machine()}, {kinds}"


def build() -> Library:
    """Compile the operators if that was not done before, and return the library.

    Those for CUDA are among them where a toolkit is found and
    `tin.op.cuda_toolkit.architectures` names any. Any number of processes may do this at once.

    Raises:
        BuildError: there is no compiler, or it failed; its own words are at the end.
    """
    names = architectures()
    toolkit = find_toolkit() if names else None
    if names and toolkit is None:
        log.warning("no CUDA toolkit: the operator is compiled for the CPU only; set CUDA_HOME")
    library = _library(toolkit, names)
    if library.path.exists():  # of a cache that others may only read, say
        return library
    library.path.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(library.path.parent / "lock"):
        if not library.path.exists():
            _compile(library, toolkit)
    return library


def built() -> Iterator[Library]:
    """Yield the libraries in the cache that were compiled from these sources for this torch."""
    for path in sorted(_folder().glob(f"{_prefix()}*.so")):
        _, cuda, architectures = (path.stem.removeprefix(_prefix()) or "--").split("-")
        yield Library(
            path, cuda.removeprefix("cuda"), tuple(filter(None, architectures.split("_")))
        )


def find(device_type: str = "cpu") -> Library:
    """Return the library for this torch, this processor and, with "cuda", the GPUs that are here.

    Raises:
        BuildError: there is none.
    """
    found = list(built())
    here = [library for library in found if all(map(library.runs_on, capabilities()))]
    if here or device_type == "cuda":  # one library serves both
        found = here
    if not found:
        raise BuildError(
            f"no compiled operator for torch {torch.__version__} and {device_type} in"
            f" {_folder()}: run `tin op build` once"
        )
    return max(found, key=lambda library: (library.cuda, library.path.stat().st_mtime))


def load(device_type: str) -> None:
    """Load the library that `find` names into this process.

    Raises:
        BuildError: there is none, or this machine cannot load it.
    """
    library = find(device_type)
    try:
        torch.ops.load_library(library.path)
    except OSError as error:  # made on a newer system, say
        reason = error.__cause__ or error  # torch's own words are "Could not load"
        raise BuildError(f"{reason}; remove {library.path} and run `tin op build` here") from None


def _folder() -> Path:
    return cache_path() / "ops"


def _sources() -> list[Path]:
    # beside this package: `import cuda` may find NVIDIA's, which may also share the folder
    folder = Path(__file__).resolve().parents[2] / "cuda"
    found = sorted(path for path in folder.glob("*") if path.suffix in (".cpp", ".cu", ".h"))
    if not found:
        raise BuildError(f"the sources of the operator are not installed: {folder}/interlace.cu")
    return found


@functools.cache
def _prefix() -> str:
    digest = hashlib.sha256(repr([CXX_FLAGS, NVCC_FLAGS, STABLE_ABI]).encode())
    for path in _sources():
        digest.update(path.read_bytes())
    return f"interlace-{digest.hexdigest()[:12]}-torch{torch.__version__}-{platform.machine()}"


def _library(toolkit: Toolkit | None, names: tuple[str, ...]) -> Library:
    if toolkit is None:
        return Library(_folder() / f"{_prefix()}.so", "", ())
    name = f"{_prefix()}-cuda{toolkit.version}-{'_'.join(names)}.so"
    return Library(_folder() / name, toolkit.version, names)


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Let other processes wait for this one, where the file system can do that."""
    with path.open("w") as file:
        with contextlib.suppress(OSError):  # then several compile, and the last one's file stays
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(library: Library, toolkit: Toolkit | None) -> None:
    cxx = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if cxx is None:
        raise BuildError("no C++ compiler: set CXX, or install g++")
    with tempfile.TemporaryDirectory(prefix="tin-op-") as folder:
        rules = _rules(cxx, toolkit, library.architectures)
        Path(folder, "build.ninja").write_text(rules)
        done = subprocess.run(
            [sys.executable, "-m", "ninja", "--quiet"],
            cwd=folder,
            env=os.environ | {"LC_ALL": "C"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            words = done.stdout.partition("FAILED: ")[2] or done.stdout
            words = words.partition("\nninja: ")[0].strip()
            raise BuildError(f"the operator did not compile; {words[-4000:]}")
        # whole or not at all, also where another process compiled it, too
        number, part = tempfile.mkstemp(dir=library.path.parent, prefix=".", suffix=".part")
        os.close(number)
        shutil.copy(Path(folder, "library.so"), part)
        Path(part).replace(library.path)


def _rules(cxx: str, toolkit: Toolkit | None, names: Sequence[str]) -> str:
    """Return a build.ninja."""
    home = Path(torch.__file__).parent
    flags = [*CXX_FLAGS, STABLE_ABI, "-isystem", str(home / "include")]
    link = [f"-L{home / 'lib'}", "-ltorch_cpu", "-lc10"]
    objects = ["binding", "interlace_cpu"]
    nvcc = []
    if toolkit:
        flags.append("-DTIN_WITH_CUDA")
        nvcc = [toolkit.nvcc, *NVCC_FLAGS, *gencode(names)]
        objects.append("interlace")
        libraries = [toolkit.root / part for part in ("lib64", "lib", "targets/x86_64-linux/lib")]
        link += [f"-L{path}" for path in libraries if path.exists()]
        link += ["-lcudart_static", "-ldl", "-lrt", "-lpthread", "-Wl,--exclude-libs,ALL"]
    sources = {path.stem: path for path in _sources() if path.suffix in (".cpp", ".cu")}
    lines = [
        _rule("cpp", [*shlex.split(cxx), *flags, "-c"]),
        _rule("cu", [*nvcc, "-c"]),
        _rule("link", [*shlex.split(cxx), "-shared"], link),
        *(
            f"build {name}.o: {sources[name].suffix[1:]} {_escape(str(sources[name]))}"
            for name in objects
        ),
        f"build library.so: link {' '.join(f'{name}.o' for name in objects)}",
    ]
    return "\n".join(lines) + "\n"


def _rule(name: str, command: Sequence[str], after: Sequence[str] = ()) -> str:
    before, after = (shlex.join(part).replace("$", "$$") for part in (command, after))
    return f"rule {name}\n  command = {before} $in -o $out {after}"


def _escape(path: str) -> str:
    return re.sub(r"([$ :])", r"$\1", path)

"""The operators of cuda/ without torch, compiled by g++; emulate.h runs the CUDA kernels on a CPU.

As a command, ``emulated_kernels.py LIBRARY`` calls the kernels of a library that was compiled with
sanitizers. The arrays end where their allocated memory ends, so that a sanitizer finds any access
beyond them.
"""

import ctypes
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np

CUDA = Path(__file__).resolve().parents[2] / "cuda"
TYPES = ["float32", "float64", "float16", "bfloat16"]
ENTRY_CPU = """
#include "interlace.h"
namespace {
const tin::Parallel in_one_range = [](int64_t tasks, int64_t,
                                 const std::function<void(int64_t, int64_t)>& body) {
  body(0, tasks);
};
}
extern "C" const char* forward_cpu(const tin::Shape* s, tin::Type t, const tin::Tensors* p, void*) {
  return tin::forward_cpu(*s, t, *p, in_one_range), nullptr;
}
"""


class Shape(ctypes.Structure):
    """tin::Shape of cuda/core.h."""

    _fields_ = [(name, ctypes.c_int) for name in ("B", "T", "C", "inner", "channels", "G")]
    _fields_ += [("channels_last", ctypes.c_bool)]


class Tensors(ctypes.Structure):
    """tin::Tensors of cuda/core.h."""

    names = "x offset weight grad y dx partial d_offset d_weight".split()
    _fields_ = [(name, ctypes.c_void_p) for name in names]


class Nets(ctypes.Structure):
    """tin::Nets of cuda/nets.h."""

    _fields_ = [(name, ctypes.c_int) for name in ("B", "T", "F")]
    _fields_ += [(name, ctypes.c_void_p) for name in ("pooled", "grad_offset", "grad_weight")]
    _fields_ += [("parameters", ctypes.c_void_p * 8)]
    _fields_ += [(name, ctypes.c_void_p) for name in ("offset", "weight", "state", "d_pooled")]
    _fields_ += [("gradients", ctypes.c_void_p * 8)]


def compile_cuda(library: Path, *flags: str) -> Path:
    """Compile the kernels for the CPU; return the library."""
    sources = (CUDA / "interlace.cu", CUDA / "nets.cu")
    return _compile(library, "-DTIN_EMULATE", "-x", "c++", *sources, *flags)


def compile_nets(library: Path) -> Path:
    """Compile only the kernels of the two nets for the CPU; return the library."""
    return _compile(library, "-DTIN_EMULATE", "-x", "c++", CUDA / "nets.cu")


def compile_cpu(library: Path) -> Path:
    """Compile the operator for CPUs, with an entry ``forward_cpu`` that is like those for CUDA."""
    entry = library.with_suffix(".cpp")
    entry.write_text(ENTRY_CPU)
    return _compile(library, CUDA / "interlace_cpu.cpp", entry, "-Wno-psabi")


def _compile(library: Path, *arguments: Path | str) -> Path:
    command = ["g++", "-std=c++17", "-O1", "-g1", "-fPIC", "-shared", f"-I{CUDA}", "-o", library]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return library


class Kernels:
    """A compiled library; its functions take the addresses of tensors."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))

    def reverse(self, reverse: bool) -> None:
        """Run the threads of a block from the last to the first, or from the first to the last."""
        ctypes.c_int.in_dll(self.library, "tin_emulate_reversed").value = reverse

    def num_partials(self, shape: Shape, dtype: str) -> int:
        """Return the size of ``partial`` for a backward call."""
        count = self.library.tin_partials_cuda
        count.restype = ctypes.c_int64
        return count(ctypes.byref(shape), TYPES.index(dtype))

    def call(self, name: str, shape: Shape, dtype: str, **addresses: int) -> None:
        """Call the function ``name``; a tensor without an address is null."""
        self._call(name, ctypes.byref(shape), dtype, ctypes.byref(Tensors(**addresses)))

    def call_nets(self, name: str, nets: Nets, dtype: str) -> None:
        """Call the function ``name`` of the two nets."""
        self._call(name, ctypes.byref(nets), dtype)

    def _call(self, name: str, first: object, dtype: str, *others: object) -> None:
        entry = getattr(self.library, name)
        entry.restype = ctypes.c_char_p
        error = entry(first, TYPES.index(dtype), *others, None)
        assert error is None, error


def sweep(kernels: Kernels) -> None:
    """Call the kernels for many shapes, types, layouts, orders of threads and offsets.

    The results are not compared with anything: a sanitizer ends the process if it finds an error.
    """
    sizes = {"float64": 8, "float32": 4}
    shapes = [(2, 8, 16, 12, 8, 2), (1, 11, 13, 15, 9, 3), (1, 3, 1200, 1, 1200, 6)]
    offsets = [0.3, -1.7, 2.0, 50.0, -1e30, np.nan, np.inf]
    cases = itertools.product(shapes, TYPES, (False, True), (False, True))
    for (sides, dtype, channels_last, reverse), offset in zip(
        cases, itertools.cycle(offsets), strict=False
    ):
        kernels.reverse(reverse)
        shape = Shape(*sides, channels_last)
        B, T, C, inner, _, G = sides
        size_bytes = B * T * C * inner * sizes.get(dtype, 2)
        small = np.float64 if dtype == "float64" else np.float32
        arrays = {name: np.ones(size_bytes, np.uint8) for name in ("x", "grad", "y", "dx")}
        for name in ("offset", "d_offset"):
            arrays[name] = np.full((B, G), offset, small)
        for name in ("weight", "d_weight"):
            arrays[name] = np.ones((B, T, G), small)
        arrays["partial"] = np.empty(kernels.num_partials(shape, dtype), small)
        addresses = {name: array.ctypes.data for name, array in arrays.items()}
        kernels.call("tin_forward_cuda", shape, dtype, **addresses)
        kernels.call("tin_backward_cuda", shape, dtype, **addresses)


def sweep_nets(kernels: Kernels) -> None:
    """Call the kernels of the two nets for some shapes, types and orders of threads, as `sweep`."""
    shapes = [(2, 8, 16), (9, 3, 33), (1, 49, 4), (1, 1, 64)]
    for (B, T, F), dtype, reverse in itertools.product(shapes, TYPES[:2], (False, True)):
        kernels.reverse(reverse)
        sizes = {"pooled": B * T * F, "d_pooled": B * T * F, "state": B * (4 * T + 2)}
        sizes |= {"offset": B * 4, "grad_offset": B * 4}
        sizes |= {"weight": B * T * 4, "grad_weight": B * T * 4}
        arrays = {name: np.ones(size, dtype) for name, size in sizes.items()}
        nets = Nets(B, T, F, **{name: array.ctypes.data for name, array in arrays.items()})
        lengths = [3 * F, 1, T * T, T, 2 * T, 2, 6 * F, 2]
        parameters = [np.ones(length, dtype) for length in lengths]
        gradients = [np.ones(length, dtype) for length in lengths]
        for i in range(8):
            nets.parameters[i] = parameters[i].ctypes.data
            nets.gradients[i] = gradients[i].ctypes.data
        kernels.call_nets("tin_nets_forward_cuda", nets, dtype)
        kernels.call_nets("tin_nets_backward_cuda", nets, dtype)


if __name__ == "__main__":
    compiled = Kernels(Path(sys.argv[1]))
    sweep(compiled)
    sweep_nets(compiled)

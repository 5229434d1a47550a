"""The operators of cuda/ without torch: compiled by g++, the CUDA kernels by way of emulate.h.

Run as a command, ``emulated.py LIBRARY``, it calls the kernels of a library that has sanitizers
compiled in, on arrays that end where the memory given to them does.
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
const tin::Parallel at_once = [](int64_t tasks, int64_t,
                                 const std::function<void(int64_t, int64_t)>& body) {
  body(0, tasks);
};
}
extern "C" const char* forward_cpu(const tin::Shape* s, tin::Type t, const tin::Tensors* p, void*) {
  return tin::forward_cpu(*s, t, *p, at_once), nullptr;
}
"""


class Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("B", "T", "C", "inner", "channels", "G")]
    _fields_ += [("channels_last", ctypes.c_bool)]


class Tensors(ctypes.Structure):
    names = "x offset weight grad y dx partial d_offset d_weight".split()
    _fields_ = [(name, ctypes.c_void_p) for name in names]


def compile_cuda(library: Path, *flags: str) -> Path:
    """Compile interlace.cu for the CPU."""
    return _compile(library, "-DTIN_EMULATE", "-x", "c++", CUDA / "interlace.cu", *flags)


def compile_cpu(library: Path) -> Path:
    """Compile the CPU's own operator, with an entry ``forward_cpu`` like those of CUDA."""
    entry = library.with_suffix(".cpp")
    entry.write_text(ENTRY_CPU)
    return _compile(library, CUDA / "interlace_cpu.cpp", entry, "-Wno-psabi")


def _compile(library: Path, *arguments: Path | str) -> Path:
    command = ["g++", "-std=c++17", "-O1", "-g1", "-fPIC", "-shared", f"-I{CUDA}", "-o", library]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return library


class Kernels:
    """A compiled library; what its calls take by name are addresses."""

    def __init__(self, library: Path):
        self.library = ctypes.CDLL(str(library))

    def reverse(self, reverse: bool) -> None:
        """Let the last thread of each block run first, or the first again."""
        ctypes.c_int.in_dll(self.library, "tin_emulate_reversed").value = reverse

    def num_partials(self, shape: Shape, dtype: str) -> int:
        count = self.library.tin_partials_cuda
        count.restype = ctypes.c_int64
        return count(ctypes.byref(shape), TYPES.index(dtype))

    def call(self, name: str, shape: Shape, dtype: str, **addresses: int) -> None:
        tensors, entry = Tensors(**addresses), getattr(self.library, name)
        entry.restype = ctypes.c_char_p
        error = entry(ctypes.byref(shape), TYPES.index(dtype), ctypes.byref(tensors), None)
        assert error is None, error


def sweep(kernels: Kernels) -> None:
    """Run shapes, types, layouts, orders and offsets, in and out of the clip; results are left."""
    sizes = {"float64": 8, "float32": 4}
    shapes = [(2, 8, 16, 12, 8, 2), (1, 11, 13, 15, 9, 3), (1, 3, 1200, 1, 1200, 6)]
    offsets = [0.3, -1.7, 2.0, 50.0, -1e30, np.nan, np.inf]
    cases = itertools.product(shapes, TYPES, (False, True), (False, True))
    for ((B, T, C, inner, channels, G), dtype, last, reverse), offset in zip(
        cases, itertools.cycle(offsets), strict=False
    ):
        kernels.reverse(reverse)
        shape = Shape(B, T, C, inner, channels, G, last)
        small = np.float64 if dtype == "float64" else np.float32
        x, grad, y, dx = (
            np.ones(B * T * C * inner * sizes.get(dtype, 2), np.uint8) for _ in "1234"
        )
        offset, weight = np.full((B, G), offset, small), np.ones((B, T, G), small)
        arrays = {"x": x, "grad": grad, "y": y, "dx": dx, "offset": offset, "weight": weight}
        arrays |= {"d_offset": offset.copy(), "d_weight": weight.copy()}
        arrays |= {"partial": np.empty(kernels.num_partials(shape, dtype), small)}
        addresses = {name: array.ctypes.data for name, array in arrays.items()}
        kernels.call("tin_forward_cuda", shape, dtype, **addresses)
        kernels.call("tin_backward_cuda", shape, dtype, **addresses)


if __name__ == "__main__":
    sweep(Kernels(Path(sys.argv[1])))

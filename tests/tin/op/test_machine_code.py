"""What nvcc compiles the CUDA kernels to: registers, widths, and the order of loads."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import emulated_kernels
import pytest
import sass

from tin.op.cuda_toolkit import find_toolkit

ARCHITECTURES = (80, 90, 100)  # A100, H100, B200
THREADS = 256  # of a block
REGISTERS = 65536  # of a multiprocessor
# Blocks of the forward kernel that fit into a multiprocessor.
FORWARD_BLOCKS = {80: 4, 90: 4, 100: 3}
# 16-byte vectors, as mangled names show them.
WIDE = {"float32": "fLi4E", "float64": "dLi2E", "float16": "HalfELi8E", "bfloat16": "BFloat16ELi8E"}


def required(tool, path):
    """Return the path of a tool; skip where it is absent, or fail if TIN_REQUIRE_NVCC is set."""
    if path is None and os.environ.get("TIN_REQUIRE_NVCC"):
        pytest.fail(f"TIN_REQUIRE_NVCC is set, but there is no {tool}; run `make nvcc`")
    if path is None:
        pytest.skip(f"no {tool}; `make nvcc` installs it")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Compile the kernels by nvcc; return the folder of its report and its code."""
    folder = tmp_path_factory.mktemp("nvcc")
    toolkit = find_toolkit()
    nvcc = required("nvcc", toolkit and toolkit.nvcc)
    codes = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in ARCHITECTURES]
    command = [nvcc, "-std=c++17", "-O3", "-t0", "-Xptxas=-v", "-Werror=all-warnings", "-c", *codes]
    sources = [emulated_kernels.CUDA / name for name in ("interlace.cu", "nets.cu")]
    files = [*sources, "-keep", "-keep-dir", folder]
    done = subprocess.run([*command, *files], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "report.txt").write_text(done.stderr)
    return folder


@pytest.fixture(scope="module")
def resources(folder):
    """Return (kernel, type and vector, architecture, registers, spilled bytes) of each kernel."""
    pattern = (
        r"'\w+?((?:nets_)?(?:forward|backward|finish))_kernelI(\w+)' for 'sm_(\d+)'"
        r".*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
    )
    found = re.findall(pattern, (folder / "report.txt").read_text(), re.DOTALL)
    return [
        (kernel, of, int(architecture), int(registers), int(stores) + int(loads))
        for kernel, of, architecture, stores, loads, registers in found
    ]


@pytest.fixture(scope="module")
def traces(folder):
    """Return what the kernels of 16-byte vectors do, by architecture, kernel and type."""
    beside = Path("nvidia/cu13/bin/nvdisasm")
    places = [shutil.which("nvdisasm"), *(Path(path, beside) for path in sys.path)]
    nvdisasm = required("nvdisasm", next((p for p in places if p and Path(p).exists()), None))
    found = {}
    for number in ARCHITECTURES:
        (cubin,) = folder.glob(f"interlace.*_{number}.cubin")
        command = [nvdisasm, "-c", cubin]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        for name, trace in sass.traces(done.stdout).items():
            kernel = re.search("(forward|backward)_kernel", name)
            for dtype, vector in WIDE.items():
                if kernel and vector in name:
                    found[number, kernel[1], dtype] = trace
    return found


def test_kernels_do_not_spill_and_enough_blocks_fit_into_a_multiprocessor(resources):
    # Each architecture has 11 pairs of type and vector, and sums in float32 and float64;
    # the two nets have these two types, too.
    counts = Counter((kernel, architecture) for kernel, _, architecture, *_ in resources)
    expected = {"forward": 11, "backward": 11, "finish": 2, "nets_forward": 2, "nets_backward": 2}
    assert counts == {(k, n): count for k, count in expected.items() for n in ARCHITECTURES}
    for kernel, of, architecture, registers, spilled in resources:
        blocks = FORWARD_BLOCKS[architecture] if "forward" in kernel else 2
        assert registers * THREADS * blocks <= REGISTERS, (kernel, of, architecture)
        # Only tests use float64.
        assert not spilled or "VectorIdLi2E" in of, (kernel, of, architecture, spilled)


def test_kernels_read_and_write_16_bytes_per_instruction(folder):
    code = (folder / "interlace.compute_90.ptx").read_text()
    entries = re.findall(r"\.entry \w+?(forward|backward)_kernelI(\w+)\((.*?)\n}", code, re.S)
    wide = [
        entry for entry in entries if re.search("IfLi4E|IdLi2E|HalfELi8E|BFloat16ELi8E", entry[1])
    ]
    assert len(wide) == 8
    for kernel, of, code in wide:
        stores = re.findall(r"st\.global\.(?:wb\.)?(v4\.[uf]32|\w+)", code)
        loads = re.findall(r"ld\.global\.nc\.(v4\.[uf]32|v2\.f64|\w+)", code)
        partial, weights = (1, 6) if kernel == "backward" else (0, 9)
        assert stores.count("v4.u32") == len(stores) - partial, (kernel, of, stores)
        assert sum(load.startswith("v") for load in loads) == len(loads) - weights, (kernel, of)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_machine_code_reads_and_writes_16_bytes_per_instruction(traces, architecture, dtype):
    forward = Counter(traces[architecture, "forward", dtype])
    backward = Counter(traces[architecture, "backward", dtype])
    # Forward: 9 slots, an offset and 8 gains. sm_100 has two versions of the slots' loads.
    assert forward["S"] == 8
    assert forward["s"] == 0
    assert forward["L"] == (17 if architecture == 100 else 9)
    assert forward["l"] == 9
    # Backward: 8 frames that are copied; 5 frames of the gradient and 4 of x; a partial sum.
    assert backward["S"] == 8 + 4
    assert backward["s"] == 1
    assert backward["L"] == 8 + 5 + 4
    assert backward["l"] == 6


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("architecture", [80, 90])
def test_no_load_of_a_tile_waits_for_arithmetic(traces, architecture, dtype):
    # The offset, then all slots (with 16 bits also all gains), then arithmetic and stores.
    forward = traces[architecture, "forward", dtype]
    gains_first = dtype in ("float16", "bfloat16")
    pattern = "luLl{8}L{8}u?S{8}" if gains_first else "luL{9}(u?luu?S){8}"
    assert re.fullmatch(pattern, forward), forward
    # The copied frames, the offset, the weights, and all frames of the gradient and of x.
    backward = traces[architecture, "backward", dtype]
    assert re.fullmatch("L{8}(u?S)u?S{7}lul{5}uL{9}u?S{4}s", backward), backward


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_on_sm_100_the_first_wait_of_a_tile_comes_after_most_of_its_loads(traces, dtype):
    assert re.match("luL{9}", traces[100, "forward", dtype])
    # nvcc delays three of the nine loads of the backward until registers are free.
    assert re.match("L{8}u?S{8}lul{5}uL{6,9}u", re.sub("Su", "uS", traces[100, "backward", dtype]))


def test_a_load_that_waits_for_arithmetic_is_seen():
    together = """
        /*0010*/                   LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
        /*0020*/              @!P0 LDG.E.128.CONSTANT R8, desc[UR4][R2.64+0x10] ;
        /*0030*/                   FADD R12, R4, R9 ;
        /*0040*/                   STG.E.128 desc[UR4][R2.64], R12 ;
    """
    alternating = """
        /*0010*/                   LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
        /*0020*/                   MOV R20, R7 ;
        /*0030*/                   LDG.E.U16.CONSTANT R8, desc[UR4][R2.64+0x10] ;
        /*0040*/                   FADD R12, R20, R8 ;
        /*0050*/                   STG.E.U16 desc[UR4][R2.64], R12 ;
    """
    assert sass.trace(together) == "LLuS"
    assert sass.trace(alternating) == "Lulus"

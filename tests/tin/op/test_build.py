"""Building the operator: once, whole, for the right machines, with readable errors."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tin.op import build as module
from tin.op import cuda_toolkit
from tin.op.build import BuildError, Library, build, find
from tin.op.selftest import check

# stands in for a compiler: notes each call, takes a while, writes what it is asked for
SLOW = """#!/bin/sh
echo "$@" >> {calls}
sleep {seconds}
while [ "$1" != "-o" ]; do shift; done
echo compiled > "$2"
"""
needs_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Give each test a cache of its own."""
    (tmp_path / "site.yaml").write_text(f"cache: {tmp_path / 'cache'}\n")
    monkeypatch.setenv("TIN_SITE", str(tmp_path / "site.yaml"))
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    return tmp_path / "cache" / "ops"


@pytest.fixture
def slow_compiler(tmp_path, monkeypatch):
    """Put a compiler in place that takes some seconds; return the file of its calls."""

    def put(seconds):
        script, calls = tmp_path / "slow-c++", tmp_path / "calls"
        script.write_text(SLOW.format(calls=calls, seconds=seconds))
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "")
        return calls

    return put


def start_build():
    process = multiprocessing.get_context("fork").Process(target=build)
    process.start()
    return process


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_many_processes_compile_once(cache, slow_compiler):
    calls = slow_compiler(0.3)
    for process in [start_build() for _ in range(8)]:
        process.join(60)
        assert process.exitcode == 0
    assert len(calls.read_text().splitlines()) == 3  # binding, operator, link
    assert [path.read_text() for path in cache.glob("*.so")] == ["compiled\n"]


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_build_killed_half_way_leaves_nothing_in_the_way(cache, slow_compiler):
    calls = slow_compiler(5)
    process = start_build()
    deadline = time.monotonic() + 30
    while not calls.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    with pytest.raises(BuildError):
        find()
    slow_compiler(0)
    assert build().path.read_text() == "compiled\n"
    assert sorted(path.name for path in cache.iterdir()) == [find().path.name, "lock"]


def test_what_is_built_is_returned_where_nothing_can_be_written(cache, slow_compiler, monkeypatch):
    slow_compiler(0)
    library = build()
    monkeypatch.setattr(module, "_one_at_a_time", None)  # a lock could not be made
    assert build() == library


def test_sources_are_ours_though_another_package_is_called_cuda(tmp_path, monkeypatch):
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cuda", raising=False)
    assert {"core.h", "interlace.cu"} <= {path.name for path in module._sources()}


@needs_compiler
def test_an_error_of_the_compiler_stands_at_the_end(tmp_path, monkeypatch):
    broken = tmp_path / "interlace_cpu.cpp"
    broken.write_text("int broken() { return nothing; }\n")
    sources = [path for path in module._sources() if path.name != broken.name]
    monkeypatch.setattr(module, "_sources", lambda: [broken, *sources])
    module._prefix.cache_clear()
    with pytest.raises(BuildError, match=r"^the operator did not compile; ") as caught:
        build()
    last_lines = str(caught.value).splitlines()[-3:]
    assert "error: 'nothing' was not declared in this scope" in last_lines[0]
    module._prefix.cache_clear()


def test_no_compiler_is_said_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(module, "architectures", lambda: ())
    with pytest.raises(BuildError, match=r"no C\+\+ compiler: set CXX"):
        build()


def test_nothing_built_names_the_command():
    for ask in (find, check):
        with pytest.raises(BuildError, match="run `tin op build` once"):
            ask()


def test_a_library_belongs_to_its_sources_its_torch_and_its_processor(monkeypatch):
    def name():
        module._prefix.cache_clear()
        return module._prefix()

    names = {name()}
    monkeypatch.setattr(module, "STABLE_ABI", "-DTORCH_TARGET_VERSION=0x020c000000000000")
    names.add(name())
    monkeypatch.setattr(torch, "__version__", "9.9")
    names.add(name())
    monkeypatch.setattr(module.platform, "machine", lambda: "aarch64")
    names.add(name())
    monkeypatch.undo()
    assert len(names) == 4 and all("/" not in name for name in names)
    module._prefix.cache_clear()


@pytest.mark.parametrize(
    "architectures, capability, runs",
    [
        (("8.0",), (8, 0), True),
        (("8.0",), (8, 6), True),  # code for 8.0 runs on the later ones of its generation
        (("8.6",), (8, 0), False),
        (("8.0",), (9, 0), False),
        (("8.0", "9.0", "9.0+PTX"), (10, 0), True),
        (("8.0", "9.0", "9.0+PTX"), (7, 5), False),
        ((), (9, 0), False),
    ],
)
def test_which_gpus_a_library_runs_on(architectures, capability, runs):
    assert Library(Path("a.so"), "13.0", architectures).runs_on(capability) is runs


def test_a_library_that_fits_the_gpu_is_chosen(cache, monkeypatch):
    cache.mkdir(parents=True)
    for architectures in ("8.0", "9.0_9.0+PTX"):
        (cache / f"{module._prefix()}-cuda13.0-{architectures}.so").touch()
    (cache / f"{module._prefix()}.so").touch()
    monkeypatch.setattr(module, "capabilities", lambda: {(9, 0)})
    assert find("cuda").architectures == ("9.0", "9.0+PTX")
    (cache / f"{module._prefix()}-cuda13.1-8.0.so").touch()
    assert find("cpu") == find("cuda")  # one serves both, though another one is newer
    monkeypatch.setattr(module, "capabilities", lambda: {(7, 5)})
    with pytest.raises(BuildError, match="and cuda in .*: run `tin op build` once"):
        find("cuda")
    assert find().cuda == "13.1"  # its CPU operator is as good


def test_a_library_that_cannot_be_loaded_is_named_with_what_to_do(cache):
    cache.mkdir(parents=True)
    path = cache / f"{module._prefix()}.so"
    path.write_text("of another kind of machine")
    with pytest.raises(BuildError, match="file too short; remove .*so and run `tin op build` here"):
        check()


def test_architectures_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5;8.6+PTX 10.0")
    assert cuda_toolkit.architectures() == ("7.5", "8.6+PTX", "10.0")
    assert cuda_toolkit.gencode(["7.5", "8.6+PTX"]) == [
        "-gencode=arch=compute_75,code=sm_75",
        "-gencode=arch=compute_86,code=compute_86",
        "-gencode=arch=compute_86,code=sm_86",
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Ampere")
    with pytest.raises(ValueError, match=r"found Ampere, expected such as 8\.0"):
        cuda_toolkit.architectures()


def test_without_a_toolkit_the_operator_is_built_for_the_cpu(cache, slow_compiler, monkeypatch):
    slow_compiler(0)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    monkeypatch.setattr(module, "find_toolkit", lambda: None)
    assert build() == find() == Library(cache / f"{module._prefix()}.so", "", ())


@needs_compiler
@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc")
def test_a_library_with_cuda_loads_and_passes_its_test_beside_any_torch(monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    library = build()
    assert (library.architectures, find()) == (("9.0",), library)
    done = subprocess.run(
        [sys.executable, "-c", "from tin.op.selftest import check; print(check())"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert f"CUDA {library.cuda} for 9.0" in done.stdout and "cpu: at most 0." in done.stdout
    assert not done.stderr

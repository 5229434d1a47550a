"""Building the operator: once, atomically, for the right machines, with readable errors."""

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

from configs.digests import file_digest, write_digest
from tin.op import build as module
from tin.op import cuda_toolkit, selftest
from tin.op.build import BuildError, Library, build, find
from tin.op.interlace import interlace_reference
from tin.op.selftest import check
from tin.op.trust import check_trust

# A fake compiler: it records each call, takes some seconds, and writes its output file.
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
    """Return a function that installs a slow fake compiler and returns the file of its calls."""

    def install(seconds):
        script = tmp_path / "slow-c++"
        calls = tmp_path / "calls"
        script.write_text(SLOW.format(calls=calls, seconds=seconds))
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "")
        return calls

    return install


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
def test_a_build_works_after_one_that_was_killed_half_way(cache, slow_compiler):
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
    name = find().path.name
    assert sorted(path.name for path in cache.iterdir()) == [name, f"{name}.sha256", "lock"]


def test_an_interrupted_copy_into_the_cache_leaves_no_file(cache, slow_compiler, monkeypatch):
    slow_compiler(0)

    def interrupted(source, target):
        target.write(source.read(4))
        raise KeyboardInterrupt

    monkeypatch.setattr(module.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build()
    assert [path.name for path in cache.iterdir()] == ["lock"]


def test_an_existing_library_is_returned_from_a_read_only_cache(cache, slow_compiler, monkeypatch):
    slow_compiler(0)
    library = build()
    monkeypatch.setattr(module, "_one_at_a_time", None)  # it would have to write the lock
    assert build() == library


def test_our_sources_are_found_although_another_package_is_called_cuda(tmp_path, monkeypatch):
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cuda", raising=False)
    assert {"core.h", "interlace.cu"} <= {path.name for path in module._source_files()}


@needs_compiler
def test_the_message_ends_with_the_error_of_the_compiler(tmp_path, monkeypatch):
    broken = tmp_path / "interlace_cpu.cpp"
    broken.write_text("int broken() { return nothing; }\n")
    sources = [path for path in module._source_files() if path.name != broken.name]
    monkeypatch.setattr(module, "_source_files", lambda: [broken, *sources])
    module._prefix.cache_clear()
    with pytest.raises(BuildError, match=r"^the operator did not compile; ") as caught:
        build()
    last_lines = str(caught.value).splitlines()[-3:]
    assert "error: 'nothing' was not declared in this scope" in last_lines[0]
    module._prefix.cache_clear()


def test_a_missing_compiler_is_reported(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(module, "architectures", lambda: ())
    with pytest.raises(BuildError, match=r"no C\+\+ compiler found: set CXX"):
        build()


def test_the_error_without_a_library_names_the_command_to_run():
    for call in (find, check):
        with pytest.raises(BuildError, match="run `tin op build` once"):
            call()


def test_the_name_of_a_library_depends_on_flags_torch_and_processor(monkeypatch):
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
    assert len(names) == 4
    assert all("/" not in name for name in names)
    module._prefix.cache_clear()


@pytest.mark.parametrize(
    "architectures, capability, runs",
    [
        (("8.0",), (8, 0), True),
        (("8.0",), (8, 6), True),  # code for 8.0 runs on later GPUs of generation 8
        (("8.6",), (8, 0), False),
        (("8.0",), (9, 0), False),
        (("8.0", "9.0", "9.0+PTX"), (10, 0), True),
        (("8.0", "9.0", "9.0+PTX"), (7, 5), False),
        ((), (9, 0), False),
    ],
)
def test_a_library_runs_on_the_gpus_of_its_architectures(architectures, capability, runs):
    assert Library(Path("a.so"), "13.0", architectures).runs_on(capability) is runs


def test_find_prefers_a_library_for_the_gpus_of_the_machine(cache, monkeypatch):
    cache.mkdir(parents=True)
    for architectures in ("8.0", "9.0_9.0+PTX"):
        (cache / f"{module._prefix()}-cuda13.0-{architectures}.so").touch()
    (cache / f"{module._prefix()}.so").touch()
    monkeypatch.setattr(module, "capabilities", lambda: {(9, 0)})
    assert find("cuda").architectures == ("9.0", "9.0+PTX")
    (cache / f"{module._prefix()}-cuda13.1-8.0.so").touch()
    assert find("cpu") == find("cuda")  # one library serves both, although another is newer
    monkeypatch.setattr(module, "capabilities", lambda: {(7, 5)})
    with pytest.raises(BuildError, match="and cuda in .*: run `tin op build` once"):
        find("cuda")
    assert find().cuda == "13.1"  # the CPU's operator of any library will do


def test_the_error_of_a_library_that_cannot_be_loaded_says_what_to_do(cache):
    cache.mkdir(parents=True)
    path = cache / f"{module._prefix()}.so"
    path.write_text("not a library")
    write_digest(path, file_digest(path))
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
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0a 9.0;12.0f+PTX")  # images for an H100 set 9.0a
    assert cuda_toolkit.architectures() == ("9.0", "12.0+PTX")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Ampere")
    with pytest.raises(ValueError, match=r"found Ampere, expected .* such as 8\.0"):
        cuda_toolkit.architectures()


def test_without_a_toolkit_the_operator_is_built_for_the_cpu(cache, slow_compiler, monkeypatch):
    slow_compiler(0)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    monkeypatch.setattr(module, "find_toolkit", lambda: None)
    assert build() == find() == Library(cache / f"{module._prefix()}.so", "", ())


@needs_compiler
@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc")
def test_a_library_with_cuda_loads_and_passes_its_self_test_with_any_torch(monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    library = build()
    assert library.architectures == ("9.0",)
    assert find() == library
    done = subprocess.run(
        [sys.executable, "-c", "from tin.op.selftest import check; print(check())"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert f"CUDA {library.cuda} for 9.0" in done.stdout
    assert "CPU, float32: compiled kernels; at most 0." in done.stdout
    assert not done.stderr


@pytest.mark.parametrize("factor", [1.5, float("nan")])
def test_the_self_test_rejects_a_wrong_result_of_one_type(monkeypatch, factor):
    def wrong_for_bfloat16(x, *others):
        y = interlace_reference(x, *others)
        return y * factor if x.dtype == torch.bfloat16 else y

    monkeypatch.setattr(selftest, "built", lambda: ["a library"])
    monkeypatch.setattr(selftest, "load", lambda device: None)
    monkeypatch.setattr(selftest, "interlace", wrong_for_bfloat16)
    with pytest.raises(BuildError, match="the operator is wrong on cpu"):
        check()


@pytest.fixture
def library(tmp_path):
    """Return a library with its digest, in a folder of this user alone."""
    folder = tmp_path / "ops"
    folder.mkdir(mode=0o755)
    path = folder / "interlace.so"
    path.write_bytes(b"code")
    path.chmod(0o644)
    write_digest(path, file_digest(path))
    return path


def test_a_library_of_this_user_with_its_digest_is_trusted(library):
    check_trust(library)


@pytest.mark.parametrize("place", ["library", "folder"])
def test_a_library_that_everybody_may_change_is_not_loaded(library, place):
    (library if place == "library" else library.parent).chmod(0o777)
    with pytest.raises(BuildError, match="is writable for everybody"):
        check_trust(library)


def test_a_library_without_its_digest_or_with_another_is_not_loaded(library):
    library.write_bytes(b"c0de")
    with pytest.raises(BuildError, match="does not have the digest beside it"):
        check_trust(library)
    library.with_name("interlace.so.sha256").unlink()
    with pytest.raises(BuildError, match="has no digest beside it"):
        check_trust(library)


def test_a_library_of_another_user_needs_a_line_in_site_yaml(library, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 4242)  # so that the file belongs to somebody else
    monkeypatch.setattr("tin.op.trust.ROOT", 4243)
    with pytest.raises(BuildError, match="list the user in site.yaml under trusted_owners"):
        check_trust(library)
    owner = library.stat().st_uid
    (tmp_path / "site.yaml").write_text(f"trusted_owners: ['{owner}', nobody-of-this-name]\n")
    check_trust(library)

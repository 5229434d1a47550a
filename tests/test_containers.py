"""The container files: what they install exists, and both install the same."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from setuptools.config.setupcfg import read_configuration

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "containers" / "Dockerfile").read_text()
DEFINITION = (ROOT / "containers" / "tin.def").read_text()
INSTRUCTIONS = ("FROM", "ARG", "RUN", "COPY", "ENV", "ENTRYPOINT")


def shell_lines(text: str) -> list[str]:
    """Return the commands of a script, each with one space between its words."""
    joined = text.replace("\\\n", " ")
    return [" ".join(part.split()) for part in re.split(r"\n|&&", joined) if part.strip()]


def docker_commands() -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    runs = [line.removeprefix("RUN ") for line in joined.splitlines() if line.startswith("RUN ")]
    return [command for run in runs for command in shell_lines(run)]


def apptainer_commands() -> list[str]:
    post = DEFINITION.partition("%post\n")[2].partition("\n%")[0]
    return [command.replace("{{ EXTRA }}", "$EXTRA") for command in shell_lines(post)]


def test_both_containers_run_the_same_commands():
    assert docker_commands() == apptainer_commands()
    assert "PYTHONSAFEPATH=1" in DOCKERFILE
    assert "PYTHONSAFEPATH=1" in DEFINITION


def test_every_line_of_the_dockerfile_is_an_instruction():
    joined = re.sub(r"^#.*\n", "", DOCKERFILE.replace("\\\n", " "), flags=re.MULTILINE)
    for line in filter(None, joined.splitlines()):
        assert line.split()[0] in INSTRUCTIONS, line


def test_the_sections_of_the_definition_are_known():
    sections = re.findall(r"^%(\w+)", DEFINITION, re.MULTILINE)
    assert sections == ["arguments", "files", "post", "environment", "runscript"]


def test_the_commands_are_valid_shell():
    script = "\n".join(docker_commands())
    subprocess.run(["sh", "-n", "-c", script], check=True)


@pytest.mark.parametrize("extra", ["cuda13", "cuda12"])
def test_the_install_step_finds_its_extras_and_constraints(extra: str, tmp_path: Path):
    """Without a container engine, pip only checks names: nothing is installed or downloaded."""
    (install,) = (command for command in docker_commands() if command.startswith("pip install"))
    found = re.search(r"-c /opt/tin/(\S+) \"/opt/tin\[(\S+)\]\"", install)
    assert found
    constraints, extras = found.groups()
    assert (ROOT / constraints).exists()
    offered = read_configuration(ROOT / "setup.cfg")["options"]["extras_require"]
    assert set(extras.replace("$EXTRA", extra).split(",")) <= set(offered)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "-c", ROOT / constraints, "--dest", tmp_path, ROOT]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)

#!/usr/bin/env python3
"""Runs a command with another version of Slurm, which lies in a folder of its own.

    slurm_folder.py 24.11 python -m pytest tests/cluster

The folder holds a minimal Debian with the packages of Slurm, made once by debootstrap (a minute,
800 MB, root). The command runs in it by chroot: it sees the checkout, the home folder and this
Python at their usual paths. If this machine has the wanted version itself, no folder is needed.

In both cases, the command gets namespaces of its own for processes, mounts and the network; it does
not reach other machines. When it ends or is killed, even with SIGKILL, the kernel ends all
processes, mounts and links of the test cluster. Two commands can run at once.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from processes import run_command, which
from slurm_box import PACKAGES, install

RELEASES = {"22.05": "bookworm", "24.11": "trixie"}
"""Debian's name for the release that has this version of Slurm."""
FOLDERS = Path("/var/tmp")
LIBRARIES = "ca-certificates libexpat1 libffi8 libgomp1 libsqlite3-0 libssl3 procps git"
"""What a Python of this machine may need beside libc."""
READY = "slurm-is-ready"
SYSTEM = ("/proc", "/dev", "/sys")
HOST_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
"""Files that tell this machine's name."""
MIRROR = re.compile(r"https?://\S+/debian/?(?=\s|$)")
NO_SERVICES = "#!/bin/sh\nexit 101\n"
ALONE = "unshare --mount --propagation private --net --pid --fork --kill-child --mount-proc".split()
"""Starts a command whose processes, mounts and links end with it."""
NETWORK = " && ".join(
    [
        "ip link set lo up",
        "ip link add eth0 type bridge",
        "ip address add 10.98.0.1/24 dev eth0",
        "ip link set eth0 up",
        "mkdir -p /run/netns",
        "mount -t tmpfs tmpfs /run/netns",
    ]
)
"""Slurm resolves no name without an address beside the loopback interface's; a bridge has one.

The names of the nodes' networks end with the command, too.
"""


def make(version: str) -> Path:
    """Return the folder of a version of Slurm, made now if it does not exist."""
    folder = FOLDERS / f"tin-slurm-{version}"
    if (folder / READY).exists():
        return folder
    if not which("debootstrap"):
        run_command("apt-get", "update", "-qq")
        run_command("apt-get", "install", "-y", "-qq", "debootstrap")
    shutil.rmtree(folder, ignore_errors=True)
    run_command("debootstrap", "--variant=minbase", RELEASES[version], folder, _mirror())
    policy = folder / "usr/sbin/policy-rc.d"
    policy.write_text(NO_SERVICES)
    policy.chmod(0o755)
    apt = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    names = [*PACKAGES.split(), *LIBRARIES.split()]
    run_command("chroot", folder, *apt, *names, env=env)
    (folder / READY).touch()
    return folder


def enter(folder: Path, command: Sequence[str]) -> None:
    """Replace this process by a command in the folder."""
    for name in HOST_FILES:
        shutil.copyfile(name, f"{folder}{name}")
    script = [f"mount --bind {folder} {folder}"]
    for path in SYSTEM:
        script.append(f"mount --rbind {path} {folder}{path}")
    for path in _shared():
        script += [f"mkdir -p {folder}{path}", f"mount --bind {path} {folder}{path}"]
    # A mount point as its root lets the nodes of the test cluster have mounts of their own.
    inside = f'{NETWORK} && cd "$0" && exec "$@"'
    script.append(f'chroot {folder} sh -c \'{inside}\' "{Path.cwd()}" "$@"')
    run_alone(script, command)


def run_alone(script: Sequence[str], command: Sequence[str]) -> None:
    """Replace this process by the lines of a shell script with namespaces of its own.

    The words of `command` are the arguments of the script. The shell remains as their parent: it is
    process 1 of the namespace, reaps orphans, and takes all other processes with it when it exits.
    """
    lines = ["set -e", *script, "exit $?"]
    os.execvp(ALONE[0], [*ALONE, "sh", "-c", "\n".join(lines), "sh", *command])


def _shared() -> list[Path]:
    """Return the folders that the command sees: home, checkout, repository, and Python."""
    listed = ["git", "rev-parse", "--path-format=absolute", "--git-common-dir", "--show-toplevel"]
    folders = [Path.home(), *map(Path, run_command(*listed).split())]
    folders += [Path(sys.prefix), Path(sys.base_prefix)]
    found: list[Path] = []
    for folder in folders:
        if not any(folder.is_relative_to(other) for other in found):
            found.append(folder)
    return [folder for folder in found if not str(folder).startswith("/usr")]


def _mirror() -> str:
    sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    for file in sources:
        found = MIRROR.search(file.read_text()) if file.exists() else None
        if found:
            return found[0]
    return "http://deb.debian.org/debian"


def main() -> None:
    """Run the words after the version as a command."""
    version, *command = sys.argv[1:]
    if version not in RELEASES:
        sys.exit(f"SLURM={version}: choose one of {', '.join(RELEASES)}")
    if os.geteuid() != 0:
        sys.exit("the test cluster needs root (namespaces, and daemons that start as root)")
    daemon = which("slurmctld")
    here = subprocess.run([daemon, "-V"], capture_output=True, text=True).stdout if daemon else ""
    release = Path("/etc/os-release").read_text()
    if not here and RELEASES[version] in release:
        install()  # now, because the command has no network
    elif f" {version}." not in here:
        enter(make(version), command)
    run_alone([NETWORK, '"$@"'], command)


if __name__ == "__main__":
    main()

"""Users of the test cluster who are not root, with an installed package as a user has it."""

import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from processes import run_command

USERS = ("alice", "bob")
"""Only the cluster knows them: their accounts are in files of its own, see `inside`."""
GROUP = "team"
FIRST_UID = 64100
LONGEST_S = 300.0


def write_users(box: Path) -> None:
    """Write files of accounts: those of this machine, and users with a home folder and a group."""
    passwd = Path("/etc/passwd").read_text()
    for uid, user in enumerate(USERS, FIRST_UID):
        home = box / "home" / user
        home.mkdir(parents=True, exist_ok=True)
        os.chown(home, uid, FIRST_UID)
        passwd += f"{user}:x:{uid}:{FIRST_UID}::{home}:/bin/bash\n"
    (box / "etc/passwd").write_text(passwd)
    group = f"{GROUP}:x:{FIRST_UID}:{','.join(USERS)}\n"
    (box / "etc/group").write_text(Path("/etc/group").read_text() + group)


def inside(box: Path, command: str) -> list[str]:
    """Return the words that run a line of sh with the cluster's own hosts and accounts.

    Slurm 24.11 waits for ten seconds, and answers nobody, if it cannot resolve a node's name.
    """
    files = [f"mount --bind {box}/etc/{name} /etc/{name}" for name in ("hosts", "passwd", "group")]
    return ["unshare", "--mount", "sh", "-c", " && ".join([*files, command]), "sh"]


def share_python(box: Path) -> list[Path]:
    """Mount this Python and its packages where all users can read them, and return the mounts.

    The Python of the tests may lie in the home folder of root. A node sees the mounts that exist
    before it starts. They are read-only, so that nothing can remove what they show.
    """
    shown = {"base": sys.base_prefix, "packages": sysconfig.get_path("purelib")}
    for name, source in shown.items():
        (box / name).mkdir()
        run_command("mount", "--bind", source, box / name)
        run_command("mount", "-o", "remount,bind,ro", box / name)
    return [box / name for name in shown]


def install(box: Path, wheel: Path) -> Path:
    """Return an environment with the wheel, which finds all other packages in those of the tests.

    The package itself comes from the wheel: an editable installation in the packages of the tests
    has no effect, because Python reads no `.pth` file there.
    """
    folder = box / "env"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = box / f"base/bin/python{version}"
    env = {**os.environ, **libraries(box)}
    run_command(python, "-m", "venv", "--without-pip", folder, env=env)
    quiet = ["--disable-pip-version-check", "--quiet", "--python", folder / "bin/python"]
    words = ["install", "--no-deps", "--no-index", wheel]
    run_command(sys.executable, "-m", "pip", *quiet, *words, env=env)
    site = folder / f"lib/python{version}/site-packages"
    (site / "tested.pth").write_text(f"{box / 'packages'}\n")
    return folder


def libraries(box: Path) -> dict[str, str]:
    """Return the variable that leads to the library of this Python, which may lie in /root."""
    return {"LD_LIBRARY_PATH": str(box / "base/lib")}


class User:
    """A user at the login node, with the installed package in PATH."""

    def __init__(self, box: Path, name: str, folder: Path, umask: str = "022"):
        self.box = box
        self.name = name
        self.folder = folder
        self.umask = umask

    def start(self, command: str) -> "subprocess.Popen[str]":
        """Start a line of the shell in the user's folder; its output and errors are one text."""
        switch = f"exec setpriv --reuid={self.name} --regid={GROUP} --init-groups"
        shell = f'umask {self.umask}; cd "$0" && eval "$1"'
        line = f"""{switch} bash -c '{shell}' "$@" """
        return subprocess.Popen(
            [*inside(self.box, line), str(self.folder), command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env=self._environment(),
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Run a line of the shell; return its exit code and what it printed."""
        process = self.start(command)
        printed = process.communicate(timeout=LONGEST_S)[0]
        return process.returncode, printed

    def told(self, command: str, code: int = 0) -> str:
        """Return what a line of the shell printed; assert that it exits with `code`."""
        found, printed = self.run(command)
        assert found == code, f"{self.name}: {command}: {found}\n{printed}"
        return printed

    def wait(self, command: str, text: str, seconds: float = LONGEST_S) -> str:
        """Repeat a command until it prints a text, and return what it printed."""
        end = time.monotonic() + seconds
        while text not in (printed := self.told(command)):
            assert time.monotonic() < end, f"{text!r} is not printed by {command}:\n{printed}"
            time.sleep(1)
        return printed

    def _environment(self) -> dict[str, str]:
        path = f"{self.box}/env/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        home = self.box / "home" / self.name
        names = {"HOME": str(home), "USER": self.name, "LOGNAME": self.name, "PATH": path}
        return {**names, "SLURM_CONF": f"{self.box}/etc/slurm.conf", **libraries(self.box)}

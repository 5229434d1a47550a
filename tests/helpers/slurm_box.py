#!/usr/bin/env python3
"""A real Slurm of several nodes on one machine, in a folder of its own.

    slurm_box.py install                    Debian packages (root)
    slurm_box.py up FOLDER [--nodes N] [--network]
    slurm_box.py down|env FOLDER
    slurm_box.py kill|start|cut|heal FOLDER NODE

It starts munge, MariaDB, slurmdbd, slurmctld, and one slurmd for each node. Each node has its own
host name and hosts file and, with --network, its own network interface on a bridge, so that its
link can be cut. Nothing outside FOLDER changes. The script needs Python with psutil.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import psutil
from processes import is_alive, run_command, spawn, stop, wait, which
from slurm_users import GROUP, USERS, inside, write_users

PACKAGES = "munge slurmctld slurmd slurm-client slurmdbd mariadb-server iproute2 util-linux"
PORT = 16800  # the ranks of jobs use 20000 to 31999, see tin.ranks.distributed
NET = "10.97.0"
HERE = Path(__file__).parent
FIRST = ("nice", "-n", "-10")
"""Daemons get a high priority: on a busy machine, a slow daemon would look like a lost node."""
DAEMONS = ("slurmctld", "slurmd", "slurmstepd", "slurmdbd", "slurmscriptd")

GRES_CONF = "AutoDetect=off\nName=gpu Count=2 File=/dev/tty[0-1]\n"
"""Two GPUs for each node. They do not exist: Slurm only needs the name of a device file."""
SQL = (
    "create database slurm_acct; create user slurm@localhost identified by 'slurm';"
    " grant all on slurm_acct.* to slurm@localhost"
)


def install() -> None:
    """Install the Debian packages without starting their services."""
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=600", "-y", "-qq"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run_command(*apt, "update", env=env)
        run_command(*apt, "install", "--no-install-recommends", *PACKAGES.split(), env=env)
    finally:
        if ours:
            policy.unlink()


def obstacle(box: Path) -> str:
    """Return why a cluster cannot be started here; empty if it can."""
    if os.geteuid() != 0:
        return "this needs root (namespaces, and daemons that start as root)"
    missing = [name for name in ("slurmctld", "slurmd", "slurmdbd", "mariadbd") if not which(name)]
    if missing:
        return f"{', '.join(missing)} not found: run `tests/helpers/slurm_box.py install`"
    foreign = [pid for pid, folder in daemons().items() if folder != box]
    if foreign or Path("/etc/slurm/slurm.conf").exists():
        return "this machine has a Slurm already, which the test cluster must not disturb"
    return ""


def up(box: Path, num_nodes: int = 4, *, network: bool = False) -> dict[str, str]:
    """Start the cluster; return the environment that commands need to talk to it."""
    reason = obstacle(box)
    if reason:
        raise RuntimeError(reason)
    os.environ.update(environment(box))
    write_files(box, num_nodes, network=network)
    start_munge(box)
    start_database(box)
    start_controller(box)
    for node in range(1, num_nodes + 1):
        start(box, f"node{node}")
    idle = ["sinfo", "-h", "-N", "-p", "main", "-t", "idle", "-o", "%N"]
    wait("idle nodes", lambda: len(run_command(*idle).split()) == num_nodes, box)
    return environment(box)


def environment(box: Path) -> dict[str, str]:
    """Return the variables that make Slurm's commands talk to this cluster."""
    path = os.environ["PATH"]
    if "/usr/sbin" not in path.split(":"):
        path = f"{path}:/usr/sbin"
    return {"SLURM_CONF": f"{box}/etc/slurm.conf", "PATH": path}


def write_files(box: Path, num_nodes: int, *, network: bool) -> None:
    """Write the configuration of all daemons."""
    box.chmod(0o755)  # for the users who are not root
    for name in ("etc", "state", "spool", "log", "run", "db"):
        (box / name).mkdir(parents=True, exist_ok=True)
    (box / "munge").mkdir(mode=0o711, exist_ok=True)
    numbers = range(1, num_nodes + 1)
    host = os.uname().nodename.split(".")[0]
    address = {n: f"{NET}.{100 + n}" if network else "127.0.0.1" for n in numbers}
    nodes = "\n".join(
        f"NodeName=node{n} NodeHostname={host} NodeAddr={address[n]} Port={PORT + 10 + n} CPUs=4"
        " RealMemory=16000 Gres=gpu:2 State=UNKNOWN"
        for n in numbers
    )
    names = {
        "box": box,
        "host": host,
        "controller": f"{NET}.1" if network else "127.0.0.1",
        "port1": PORT + 1,
        "port2": PORT + 2,
        "first_job": int(time.time() / 10) % 10_000_000,
        "nodes": nodes,
    }
    (box / "etc/slurm.conf").write_text(filled("slurm.conf", names))
    (box / "etc/gres.conf").write_text(GRES_CONF)
    secret = box / "etc/slurmdbd.conf"
    secret.touch(mode=0o600)
    secret.write_text(filled("slurmdbd.conf", names))
    hosts = [f"{address[n] if network else f'127.0.1.{n}'} node{n}" for n in numbers]
    (box / "etc/hosts").write_text("\n".join([f"127.0.0.1 localhost {host}", *hosts, ""]))
    write_users(box)
    if network:
        run_command("ip", "link", "add", "boxbr", "type", "bridge")
        run_command("ip", "addr", "add", f"{NET}.1/24", "dev", "boxbr")
        run_command("ip", "link", "set", "boxbr", "up")
        for n in numbers:
            join_network(n)


def filled(name: str, names: dict[str, object]) -> str:
    """Return the text of a configuration file: its template with the names in braces replaced."""
    return (HERE / f"{name}.template").read_text().format(**names)


def join_network(n: int) -> None:
    """Give node n a network namespace that is linked to the bridge."""
    inside = ["ip", "-n", f"box-node{n}"]
    run_command("ip", "netns", "add", f"box-node{n}")
    peer = ["peer", "name", "eth0", "netns", f"box-node{n}"]
    run_command("ip", "link", "add", f"box{n}", "type", "veth", *peer)
    run_command("ip", "link", "set", f"box{n}", "master", "boxbr", "up")
    run_command(*inside, "addr", "add", f"{NET}.{100 + n}/24", "dev", "eth0")
    run_command(*inside, "link", "set", "eth0", "up")
    run_command(*inside, "link", "set", "lo", "up")


def start_munge(box: Path) -> None:
    """Start a munge daemon with its own key."""
    munge = box / "munge"
    if not (munge / "key").exists():
        (munge / "key").touch(mode=0o600)
        (munge / "key").write_bytes(os.urandom(1024))
    files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log"}
    files["seed-file"] = "seed"
    options = [f"--{option}={munge / name}" for option, name in files.items()]
    run_command(*FIRST, "munged", "--force", "--num-threads=2", *options)
    wait("munge", lambda: run_command("munge", "-n", "-S", munge / "sock"), box)


def start_database(box: Path) -> None:
    """Start MariaDB and slurmdbd; without accounting, Slurm does not tell how a job ended."""
    data = box / "db/data"
    socket = box / "db/sock"
    common = ["--no-defaults", "--user=root", f"--datadir={data}", "--innodb-log-file-size=8M"]
    quick = ["--skip-test-db", "--auth-root-authentication-method=normal", "--skip-name-resolve"]
    if not data.exists():
        run_command("mariadb-install-db", *common, *quick)
    small = "--skip-networking --performance-schema=0 --innodb-buffer-pool-size=64M"
    small += " --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900"
    files = [f"--socket={socket}", f"--pid-file={box}/run/mariadbd.pid"]
    files.append(f"--log-error={box}/log/mariadbd.log")
    spawn(*FIRST, "mariadbd", *common, *small.split(), *files)
    client = ["mariadb", "--no-defaults", f"--socket={socket}", "-uroot", "-e"]
    wait("MariaDB", lambda: run_command(*client, "select 1"), box)
    if "slurm_acct" not in run_command(*client, "show databases"):
        run_command(*client, SQL)
    run_command(*FIRST, "slurmdbd", env={**os.environ, "MYSQL_UNIX_PORT": str(socket)})
    wait("slurmdbd", lambda: run_command("sacctmgr", "-n", "list", "user"), box)
    # They may exist already.
    run_command("sacctmgr", "-iQ", "add", "cluster", "box", check=False)
    run_command("sacctmgr", "-iQ", "add", "account", GROUP, check=False)
    for user in USERS:
        add = f"sacctmgr -iQ add user {user} account={GROUP}"
        run_command(*inside(box, add), check=False)


def start(box: Path, node: str) -> None:
    """Start a node: slurmd in namespaces with their own host name and hosts file."""
    namespace = Path(f"/run/netns/box-{node}")
    network = [f"--net={namespace}"] if namespace.exists() else []
    enter = ["nsenter", *network] if network else []
    daemon = inside(box, f"exec slurmd -N {node}")
    named = ["unshare", "--uts", "sh", "-c", f'hostname {node} && exec "$@"', "sh"]
    run_command(*enter, *FIRST, *named, *daemon)


def kill(box: Path, node: str) -> None:
    """Simulate a power failure of a node: its daemon, its steps and their tasks die at once."""
    daemon = (box / f"run/slurmd-{node}.pid").read_text().strip()
    namespace = Path(f"/proc/{daemon}/ns/uts").readlink()
    # All processes are stopped first, so that none of them notices that another one dies.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "ns/uts").readlink() == namespace:
                    os.kill(int(folder.name), number)
            except OSError:  # the process has ended by itself
                continue


def cut(box: Path, node: str) -> None:
    """Take the node's network link down; its processes continue to run."""
    run_command("ip", "link", "set", node.replace("node", "box"), "down")


def heal(box: Path, node: str) -> None:
    """Bring the node's network link up again."""
    run_command("ip", "link", "set", node.replace("node", "box"), "up")


def stop_controller(box: Path) -> None:
    """End slurmctld as an upgrade does; jobs continue to run."""
    stop(int((box / "run/slurmctld.pid").read_text()))


def start_controller(box: Path) -> None:
    """Start slurmctld; it finds its earlier jobs again."""
    run_command(*FIRST, *inside(box, "exec slurmctld"))


def down(box: Path) -> None:
    """End all jobs and daemons; the folder remains, because it holds the logs."""
    os.environ.update(environment(box))
    for user in ("root", *USERS):
        run_command(*inside(box, f"scancel -u {user}"), check=False)
    end = time.monotonic() + 8
    while time.monotonic() < end and run_command("squeue", "-h", "-o", "%T", check=False).strip():
        time.sleep(0.2)
    run_command("scontrol", "shutdown", check=False)
    time.sleep(0.5)
    for name in ("run/slurmdbd.pid", "run/mariadbd.pid", "munge/pid"):
        if (box / name).exists():
            stop(int((box / name).read_text()))
    # Some wait forever for a controller that has ended, or for a stopped rank.
    for _ in range(3):
        for pid in processes_of(box):
            stop(pid)
    for link in Path("/run/netns").glob("box-node*"):
        run_command("ip", "netns", "del", link.name, check=False)
    if Path("/sys/class/net/boxbr").exists():
        run_command("ip", "link", "del", "boxbr")


def processes_of(box: Path) -> list[int]:
    """Return the processes that a cluster has started: its daemons and its jobs."""
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [
        process.pid
        for process in psutil.process_iter()
        if process.pid not in ours and is_alive(process.pid) and _folder(process) == box
    ]


def daemons() -> dict[int, Path]:
    """Return the Slurm daemons of this machine, each with the folder of its cluster."""
    return {
        process.pid: _folder(process)
        for process in psutil.process_iter(["name"])
        if process.info["name"] in DAEMONS and is_alive(process.pid)
    }


def _folder(process: psutil.Process) -> Path:
    """Return the folder of the cluster that a process belongs to; `.` if it belongs to none."""
    try:
        conf = process.environ().get("SLURM_CONF", "")
        if conf:
            return Path(conf).parent.parent
        if process.name().startswith("slurmstepd"):
            # Its title takes the place of its environment; it works in the folder of the logs.
            return Path(process.cwd()).parent
    except (psutil.Error, OSError):
        pass  # the process has ended, or is a thread of the kernel
    return Path()


def main() -> None:
    """Run the verb of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = ("install", "up", "down", "env", "kill", "start", "cut", "heal")
    parser.add_argument("verb", choices=verbs)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("/tmp/slurm_box"))
    parser.add_argument("node", nargs="?")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--network", action="store_true", help="one network for each node")
    given = parser.parse_args()
    box = given.folder.resolve()
    if given.verb == "install":
        install()
    elif given.verb == "up":
        began = time.monotonic()
        up(box, given.nodes, network=given.network)
        print(f"{given.nodes} nodes started in {time.monotonic() - began:.1f} s; now type")
        print(f"export SLURM_CONF={environment(box)['SLURM_CONF']}")
    elif given.verb == "env":
        print(f"export SLURM_CONF={environment(box)['SLURM_CONF']}")
    elif given.verb == "down":
        down(box)
    else:
        os.environ.update(environment(box))
        {"kill": kill, "start": start, "cut": cut, "heal": heal}[given.verb](box, given.node)


if __name__ == "__main__":
    sys.exit(main())

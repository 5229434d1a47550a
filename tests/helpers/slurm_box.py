#!/usr/bin/env python3
"""A real Slurm of several nodes on one machine, in a folder of its own.

    slurm_box.py install                    Debian packages (root)
    slurm_box.py up FOLDER [--nodes N] [--network]
    slurm_box.py down|env FOLDER
    slurm_box.py kill|start|cut|heal FOLDER NODE

munge, MariaDB, slurmdbd, slurmctld and one slurmd a node; a node has a host name and a hosts file
of its own, and with --network also a network (a bridge), so that its link can be cut. Nothing
outside FOLDER changes. Only the standard library is used.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from processes import alive, run, spawn, stop, wait, which

PACKAGES = "munge slurmctld slurmd slurm-client slurmdbd mariadb-server iproute2 util-linux"
PORT = 16800  # tin.ranks.distributed gives ranks 20000 to 31999
NET = "10.97.0"
HERE = Path(__file__).parent
FIRST = ("nice", "-n", "-10")  # on a busy machine a slow daemon would pass for a lost node
DAEMONS = ("slurmctld", "slurmd", "slurmstepd", "slurmdbd", "slurmscriptd")

GRES_CONF = "AutoDetect=off\nName=gpu Count=2 File=/dev/tty[0-1]\n"  # GPUs that are none
SQL = (
    "create database slurm_acct; create user slurm@localhost identified by 'slurm';"
    " grant all on slurm_acct.* to slurm@localhost"
)


def install() -> None:
    """Install the Debian packages; no service of theirs is started."""
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=600", "-y", "-qq"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run(*apt, "update", env=env)
        run(*apt, "install", "--no-install-recommends", *PACKAGES.split(), env=env)
    finally:
        if ours:
            policy.unlink()


def refusal(box: Path) -> str:
    """Return why no cluster can be started here; empty if one can."""
    if os.geteuid() != 0:
        return "this needs root (namespaces, and daemons that start as root)"
    missing = [name for name in ("slurmctld", "slurmd", "slurmdbd", "mariadbd") if not which(name)]
    if missing:
        return f"{', '.join(missing)} not found: run `tests/cluster/slurm_box.py install`"
    foreign = [pid for pid, folder in daemons().items() if folder != box]
    if foreign or Path("/etc/slurm/slurm.conf").exists():
        return "a Slurm runs or is configured on this machine already; this must not disturb it"
    return ""


def up(box: Path, num_nodes: int = 4, *, network: bool = False) -> dict[str, str]:
    """Start the cluster; return the environment that commands need to talk to it."""
    reason = refusal(box)
    if reason:
        raise RuntimeError(reason)
    os.environ.update(environment(box))
    write_files(box, num_nodes, network=network)
    start_munge(box)
    start_database(box)
    run(*FIRST, "slurmctld")
    for node in range(1, num_nodes + 1):
        start(box, f"node{node}")
    idle = ["sinfo", "-h", "-N", "-p", "main", "-t", "idle", "-o", "%N"]
    wait("idle nodes", lambda: len(run(*idle).split()) == num_nodes, box)
    return environment(box)


def environment(box: Path) -> dict[str, str]:
    """Return the variables that make Slurm's commands talk to this cluster."""
    path = os.environ["PATH"]
    path = path if "/usr/sbin" in path.split(":") else f"{path}:/usr/sbin"
    return {"SLURM_CONF": f"{box}/etc/slurm.conf", "PATH": path}


def write_files(box: Path, num_nodes: int, *, network: bool) -> None:
    """Write the configuration of all daemons."""
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
    if network:
        run("ip", "link", "add", "boxbr", "type", "bridge")
        run("ip", "addr", "add", f"{NET}.1/24", "dev", "boxbr")
        run("ip", "link", "set", "boxbr", "up")
        for n in numbers:
            join_network(n)


def filled(name: str, names: dict[str, object]) -> str:
    """Return a configuration file with the names of its template filled in."""
    return (HERE / f"{name}.template").read_text().format(**names)


def join_network(n: int) -> None:
    """Give node n a network namespace with a link to the bridge."""
    inside = ["ip", "-n", f"box-node{n}"]
    run("ip", "netns", "add", f"box-node{n}")
    peer = ["peer", "name", "eth0", "netns", f"box-node{n}"]
    run("ip", "link", "add", f"box{n}", "type", "veth", *peer)
    run("ip", "link", "set", f"box{n}", "master", "boxbr", "up")
    run(*inside, "addr", "add", f"{NET}.{100 + n}/24", "dev", "eth0")
    run(*inside, "link", "set", "eth0", "up")
    run(*inside, "link", "set", "lo", "up")


def start_munge(box: Path) -> None:
    """Start a munge daemon with a key of its own."""
    munge = box / "munge"
    if not (munge / "key").exists():
        (munge / "key").touch(mode=0o600)
        (munge / "key").write_bytes(os.urandom(1024))
    files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log"}
    files["seed-file"] = "seed"
    options = [f"--{option}={munge / name}" for option, name in files.items()]
    run(*FIRST, "munged", "--force", "--num-threads=2", *options)
    wait("munge", lambda: run("munge", "-n", "-S", munge / "sock"), box)


def start_database(box: Path) -> None:
    """Start MariaDB and slurmdbd: without accounting nobody knows how a job ended."""
    data, socket = box / "db/data", box / "db/sock"
    common = ["--no-defaults", "--user=root", f"--datadir={data}", "--innodb-log-file-size=8M"]
    quick = ["--skip-test-db", "--auth-root-authentication-method=normal", "--skip-name-resolve"]
    if not data.exists():
        run("mariadb-install-db", *common, *quick)
    small = "--skip-networking --performance-schema=0 --innodb-buffer-pool-size=64M"
    small += " --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900"
    files = [f"--socket={socket}", f"--pid-file={box}/run/mariadbd.pid"]
    files.append(f"--log-error={box}/log/mariadbd.log")
    spawn(*FIRST, "mariadbd", *common, *small.split(), *files)
    client = ["mariadb", "--no-defaults", f"--socket={socket}", "-uroot", "-e"]
    wait("MariaDB", lambda: run(*client, "select 1"), box)
    if "slurm_acct" not in run(*client, "show databases"):
        run(*client, SQL)
    run(*FIRST, "slurmdbd", env={**os.environ, "MYSQL_UNIX_PORT": str(socket)})
    wait("slurmdbd", lambda: run("sacctmgr", "-n", "list", "user"), box)
    run("sacctmgr", "-iQ", "add", "cluster", "box", check=False)  # it may be there already


def start(box: Path, node: str) -> None:
    """Start a node: slurmd in namespaces that give it a host name and a hosts file."""
    script = f"hostname {node} && mount --bind {box}/etc/hosts /etc/hosts && exec slurmd -N {node}"
    namespace = Path(f"/run/netns/box-{node}")
    network = [f"--net={namespace}"] if namespace.exists() else []
    enter = ["nsenter", *network] if network else []
    run(*enter, *FIRST, "unshare", "--uts", "--mount", "sh", "-c", script)


def kill(box: Path, node: str) -> None:
    """Cut a node's power: its daemon, its steps and their tasks die at once."""
    daemon = (box / f"run/slurmd-{node}.pid").read_text().strip()
    namespace = Path(f"/proc/{daemon}/ns/uts").readlink()
    for number in (signal.SIGSTOP, signal.SIGKILL):  # none shall see another one die
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "ns/uts").readlink() == namespace:
                    os.kill(int(folder.name), number)
            except OSError:  # it has gone by itself
                continue


def cut(box: Path, node: str) -> None:
    """Take the node's network link down; its processes live on."""
    run("ip", "link", "set", node.replace("node", "box"), "down")


def heal(box: Path, node: str) -> None:
    """Take the node's network link up again."""
    run("ip", "link", "set", node.replace("node", "box"), "up")


def down(box: Path) -> None:
    """End all jobs and daemons; the folder stays for its logs."""
    os.environ.update(environment(box))
    run("scancel", "-u", "root", check=False)
    end = time.monotonic() + 8
    while time.monotonic() < end and run("squeue", "-h", "-o", "%T", check=False).strip():
        time.sleep(0.2)
    run("scontrol", "shutdown", check=False)
    time.sleep(0.5)
    for pid in [pid for pid, folder in daemons().items() if folder == box]:
        stop(pid)  # they may wait for ever for a controller that has gone
    for name in ("run/slurmdbd.pid", "run/mariadbd.pid", "munge/pid"):
        if (box / name).exists():
            stop(int((box / name).read_text()))
    for link in Path("/run/netns").glob("box-node*"):
        run("ip", "netns", "del", link.name, check=False)
    if Path("/sys/class/net/boxbr").exists():
        run("ip", "link", "del", "boxbr")


def daemons() -> dict[int, Path]:
    """Return the Slurm daemons of this machine, each with the box that it belongs to."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().strip() in DAEMONS and alive(int(folder.name)):
                environ = (folder / "environ").read_bytes().split(b"\0")
                conf = [v for v in environ if v.startswith(b"SLURM_CONF=")] or [b"="]
                found[int(folder.name)] = Path(conf[0].partition(b"=")[2].decode()).parent.parent
        except OSError:
            continue
    return found


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = ("install", "up", "down", "env", "kill", "start", "cut", "heal")
    parser.add_argument("verb", choices=verbs)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("/tmp/slurm_box"))
    parser.add_argument("node", nargs="?")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--network", action="store_true", help="a network a node")
    words = parser.parse_args()
    box = words.folder.resolve()
    if words.verb == "install":
        install()
    elif words.verb == "up":
        began = time.monotonic()
        up(box, words.nodes, network=words.network)
        print(f"{words.nodes} nodes in {time.monotonic() - began:.1f} s; now type")
        print(f"export SLURM_CONF={environment(box)['SLURM_CONF']}")
    elif words.verb == "env":
        print(f"export SLURM_CONF={environment(box)['SLURM_CONF']}")
    elif words.verb == "down":
        down(box)
    else:
        os.environ.update(environment(box))
        {"kill": kill, "start": start, "cut": cut, "heal": heal}[words.verb](box, words.node)


if __name__ == "__main__":
    sys.exit(main())

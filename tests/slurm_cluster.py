"""A SLURM of its own: controller, node and munge on this machine, in a temporary folder, gone with the test."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

SBIN = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))  # daemons lie outside a plain user's PATH
CONFIGURATION = """\
ClusterName=clipreid
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire: what a requeued job waits for before it may start again (120 seconds by default)
AuthInfo=socket={socket},cred_expire=5
CredType=cred/munge
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
# Neither cgroups nor accounting nor an MPI: a container has none of them.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=5
MessageTimeout=30
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES PriorityTier=1 GraceTime=2
PartitionName=urgent Nodes={host} PriorityTier=2
"""


def missing() -> str:
    """Say what a cluster lacks here; nothing where one can be started."""
    if not sys.platform.startswith("linux"):
        return "SLURM runs on Linux"
    lacking = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name, path=SBIN) is None]
    if lacking:
        return f"{', '.join(lacking)} not installed (Debian: apt install slurm-wlm munge)"
    if os.geteuid():
        return "SLURM's daemons start jobs as other users, which takes root"
    return ""


@contextlib.contextmanager
def cluster(cpus: int = 2) -> Iterator[Path]:
    """Start a controller and one node, and point this process's SLURM commands at them.

    Args:
        cpus: that the node says it has, whatever the machine has.

    Yields:
        The folder with their configuration and logs.
    """
    with contextlib.ExitStack() as stack:
        # under /tmp: a socket's path may have no more than 107 characters
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm", dir="/tmp")))
        place.chmod(0o755)
        munge = place / "munge"
        munge.mkdir(mode=0o700)
        key = munge / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        (place / "state").mkdir()
        (place / "spool").mkdir()
        controller, node = _free_ports()
        configuration = place / "slurm.conf"
        host = socket.gethostname().split(".")[0]
        facts = {"host": host, "controller": controller, "node": node, "place": place, "cpus": cpus}
        configuration.write_text(CONFIGURATION.format(socket=munge / "socket", **facts))
        # Left to detect it, slurmd looks for a cgroup of its own and ends where there is none.
        plugin = "disabled" if _version() >= (24, 5) else "cgroup/v1"
        (place / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n")
        stack.enter_context(mock.patch.dict(os.environ, {"SLURM_CONF": str(configuration), "PATH": SBIN}))
        daemons: list[tuple[str, subprocess.Popen]] = []
        stack.callback(_stop, daemons)
        files = [f"--{name}-file={munge / name}" for name in ("pid", "log", "seed")]
        files += [f"--key-file={key}", f"--socket={munge / 'socket'}"]
        _start(daemons, place, "munged", "--foreground", "--force", *files)
        _wait(daemons, place, "munged", lambda: (munge / "socket").exists())
        _start(daemons, place, "slurmctld", "-D", "-f", str(configuration))
        _start(daemons, place, "slurmd", "-D", "-f", str(configuration), "-N", host)
        _wait(daemons, place, "sinfo", lambda: ask("sinfo", "-h", "-o", "%T").strip() == "idle")
        # on the way out, before the daemons: a job left over would live on without them
        stack.callback(_clear)
        yield place


def ask(*command: str) -> str:
    """Return what one of SLURM's commands prints; nothing where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout if done.returncode == 0 else ""


def _version() -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", ask("sinfo", "--version"))[:2]))


def _start(daemons: list, place: Path, name: str, *arguments: str) -> None:
    with open(place / f"{name}.out", "w") as log:
        process = subprocess.Popen([name, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    daemons.append((name, process))


def _wait(daemons: list, place: Path, what: str, ready) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        dead = [name for name, process in daemons if process.poll() is not None]
        if dead or time.monotonic() > deadline:
            logs = [f"{log.name}:\n{log.read_text()[-2000:]}" for log in (*place.glob("*.out"), *place.glob("*.log"))]
            raise RuntimeError(f"{what} is not ready ({', '.join(dead) or 'timed out'})\n" + "\n".join(logs))
        time.sleep(0.2)


def _clear() -> None:
    ask("scancel", "--user=root")
    deadline = time.monotonic() + 30
    while ask("squeue", "-h", "-t", "all", "-o", "%T").count("ING") and time.monotonic() < deadline:
        time.sleep(0.2)


def _stop(daemons: list) -> None:
    for _, process in reversed(daemons):
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports() -> list[int]:
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in (first, second)]

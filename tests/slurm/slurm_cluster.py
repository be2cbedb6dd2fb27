"""A real three-node Slurm on this machine for as long as a test session: munged, slurmctld and three slurmd.

They run in a process namespace of their own with their own ports, key and sockets: a Slurm that the machine runs is
not disturbed, and no daemon, job step or task outlives the one process that holds the namespace.
"""

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "unshare", "setpriv")
NODES = ("n1", "n2", "n3")  # components of a heterogeneous job never share a node
PR_SET_PDEATHSIG = 1

# A job of `high` drives out jobs of `low`: they hear SIGTERM, and are killed and queued again when GraceTime is over.
# cred_expire: a job that is queued again waits one second longer than this.
CONFIGURATION = """\
ClusterName=splitcom
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1
JobRequeue=1
KillWait=10
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
TmpFS={folder}/tmp.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdParameters=config_overrides
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL PriorityTier=10
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=32"
START = """\
mount -t proc proc /proc
setpriv --reuid munge --regid munge --clear-groups munged --foreground --key-file={munge}/key \\
    --socket={munge}/socket --pid-file={munge}/pid --log-file={munge}/log --seed-file={munge}/seed &
while ! test -S {munge}/socket; do sleep 0.02; done
slurmctld -D &
for node in {nodes}; do slurmd -D -N $node & done
wait
"""


class Cluster:
    """The cluster in `folder`; `environment` makes Slurm's commands talk to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command: str | Path, **environment: str) -> str:
        """The standard output of one of Slurm's commands, which must succeed."""
        answer = subprocess.run(
            list(map(str, command)),
            env=self.environment | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert answer.returncode == 0, f"{command[0]}: {answer.stderr}"
        return answer.stdout.strip()

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, CANCELLED ...: of all parts of the job, while Slurm remembers it."""
        return " ".join(sorted(set(self.run("squeue", "-h", "--states=all", "-j", job, "-o", "%T").split())))

    def clear(self) -> None:
        """End what a test has left behind."""
        for signals in ((), ("--signal=KILL",)):  # those that wait, those that run
            command = ["scancel", "--quiet", "--user=root", *signals]
            subprocess.run(command, env=self.environment, capture_output=True, timeout=20)
        wait_until(lambda: not self.run("squeue", "-h"), "an empty queue")

    def log_tail(self) -> str:
        return "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log")))


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """The cluster, idle, for the time of the block; skips the test with the reason where it cannot be had."""
    if reason := _reason_against():
        pytest.skip(reason)
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="splitcom-slurm-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _configure(folder)
        cluster = Cluster(folder)
        stack.callback(_take_down, _bring_up(cluster))
        try:
            wait_until(lambda: _idle_nodes(cluster) == len(NODES), "three idle nodes")
        except TimeoutError as error:
            raise RuntimeError(f"{error}\n{cluster.log_tail()}") from None
        yield cluster


def _reason_against() -> str | None:
    if os.geteuid() != 0:
        return "needs root: Slurm's daemons start processes for others"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"needs Debian's packages slurm-wlm and munge: no {missing[0]}"
    if "munge" not in {user.pw_name for user in pwd.getpwall()}:
        return "needs the user munge, which Debian's package munge makes"
    if subprocess.run(["unshare", "--pid", "--mount", "--fork", "true"], capture_output=True).returncode:
        return "this machine allows no process namespaces"
    return None


def _configure(folder: Path) -> None:
    folder.chmod(0o755)  # munged must reach its own folder in it
    for name in ("munge", "state", *(f"{kind}.{node}" for kind in ("spool", "tmp") for node in NODES)):
        (folder / name).mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    for path in (key, key.parent):
        shutil.chown(path, "munge", "munge")
    ports = _free_ports(1 + len(NODES))
    host = socket.gethostname()
    nodes = "\n".join(NODE.format(name=name, host=host, port=port) for name, port in zip(NODES, ports[1:], strict=True))
    configuration = CONFIGURATION.format(host=host, folder=folder, port=ports[0], nodes=nodes)
    (folder / "slurm.conf").write_text(configuration)
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    (folder / "start.sh").write_text(START.format(munge=folder / "munge", nodes=" ".join(NODES)))


def _bring_up(cluster: Cluster) -> subprocess.Popen[bytes]:
    command = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "sh", str(cluster.folder / "start.sh")]
    with (cluster.folder / "daemons.log").open("w") as log:
        return subprocess.Popen(
            command,
            env=cluster.environment,
            cwd=cluster.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # of all daemons: it ends when the last one is gone
            stderr=log,
            preexec_fn=lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )


def _take_down(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # its child, the namespace's first process, is killed with it, and all others with that
    process.communicate(timeout=20)


def _idle_nodes(cluster: Cluster) -> int:
    answer = subprocess.run(
        ["sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D"],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=20,
    )
    return int(answer.stdout.strip() or 0)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]

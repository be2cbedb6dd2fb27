"""Parties of a distributed program on one machine: a network namespace each, whose bytes and memory are counted.

A party is what would be a machine of its own. What its processes say to each other stays on its loopback device; what
it sends to another party leaves by a virtual cable and is counted there, headers and acknowledgements included.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

NETWORK, CABLE = "10.214.77", "wan"
PERIOD = 0.2  # seconds between two looks at memory
PATIENCE = 10.0  # seconds from SIGTERM to SIGKILL


@dataclass
class Memory:
    """Resident bytes, pages that processes share counted in each of them."""

    largest_sum: int = 0  # of all processes at one moment
    peaks: dict[int, int] = field(default_factory=dict)  # of every process, by its id

    def look(self, pids: Sequence[int]) -> None:
        total = 0
        for pid in pids:
            now, peak = resident(pid)
            total += now
            self.peaks[pid] = max(self.peaks.get(pid, 0), peak)
        self.largest_sum = max(self.largest_sum, total)

    @property
    def largest_process(self) -> int:
        return max(self.peaks.values(), default=0)


def resident(pid: int, proc: Path = Path("/proc")) -> tuple[int, int]:
    """Resident bytes of a process, now and at most; zeros if it is gone."""
    try:
        text = (proc / str(pid) / "status").read_text()
    except OSError:
        return 0, 0
    sizes = dict(line.split(":", 1) for line in text.splitlines() if line.startswith(("VmRSS", "VmHWM")))
    now, peak = (int(sizes.get(name, "0 kB").split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


class Parties:
    """Named parties on one bridge, inside `with`; leaving it ends their processes and takes the network away. Root."""

    def __init__(self, names: Sequence[str], logs: Path) -> None:
        self.names, self.logs, self.memory = list(names), logs, Memory()
        self._id = f"peers{os.getpid()}"
        self._children: list[subprocess.Popen[bytes]] = []
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._spaces: set[int] = set()  # inodes of the namespaces

    def __enter__(self) -> "Parties":
        self.logs.mkdir(parents=True, exist_ok=True)
        hub = self._space("hub")
        try:
            for space in (hub, *map(self._space, self.names)):
                ip("netns", "add", space)
                ip("-n", space, "link", "set", "lo", "up")
            ip("-n", hub, "link", "add", "name", "hub", "type", "bridge")
            ip("-n", hub, "link", "set", "hub", "up")
            for index, name in enumerate(self.names):
                space = self._space(name)
                ip(*f"-n {hub} link add name c{index} type veth peer name {CABLE} netns {space}".split())
                ip(*f"-n {hub} link set c{index} master hub up".split())
                ip("-n", space, "addr", "add", f"{self.address(name)}/24", "dev", CABLE)
                ip("-n", space, "link", "set", CABLE, "up")
                self._spaces.add(Path("/run/netns", space).stat().st_ino)
        except BaseException:
            self._remove()
            raise
        self._watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._watch.join()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            deadline = time.monotonic() + PATIENCE
            while self.processes() and time.monotonic() < deadline:
                time.sleep(0.1)
        for child in self._children:
            child.wait()
        self._remove()

    def address(self, name: str) -> str:
        return f"{NETWORK}.{self.names.index(name) + 10}"

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None) -> int:
        """Start a process of a party and return its number; output goes to a log of that number."""
        number = len(self._children)
        with self.log(number).open("wb") as log:
            child = subprocess.Popen(
                ["ip", "netns", "exec", self._space(name), *command],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd,
            )
        self._children.append(child)
        return number

    def log(self, number: int) -> Path:
        return self.logs / f"{number}.log"

    def wait(self, numbers: Sequence[int], seconds: float) -> None:
        """Until these have ended well. Raises RuntimeError, one line, for the first that has not, and after so long."""
        deadline, left = time.monotonic() + seconds, list(numbers)
        while left:
            codes = {number: self._children[number].poll() for number in left}
            for number, code in codes.items():
                if code or time.monotonic() > deadline:
                    ended = f"exit code {code}" if code else f"not done after {seconds:.0f} s"
                    said = self.log(number).read_text(errors="replace").split("\n")
                    last = next((line.strip() for line in reversed(said) if line.strip()), "")
                    raise RuntimeError(f"{ended}, log {self.log(number)}: {last[:160]}")
            left = [number for number, code in codes.items() if code is None]
            time.sleep(0.1 if left else 0.0)

    def wait_for_port(self, number: int, port: int, seconds: float) -> None:
        """Until somebody in the namespace of this process listens there. Raises RuntimeError."""
        deadline, table = time.monotonic() + seconds, Path("/proc", str(self._children[number].pid), "net", "tcp")
        while not any(f":{port:04X} 00000000:0000 0A" in line for line in table.read_text().splitlines()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"nobody listens at port {port} after {seconds:.0f} s, log {self.log(number)}")
            time.sleep(0.2)

    def sent(self) -> dict[str, int]:
        """Bytes that every party has sent to others so far, from the first packet on."""
        return {name: _sent(self._space(name)) for name in self.names}

    def processes(self) -> list[int]:
        """All that live in the parties' namespaces, whoever started them."""
        found = []
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                with contextlib.suppress(OSError):  # gone, or waiting for its parent
                    if (path / "ns" / "net").stat().st_ino in self._spaces:
                        found.append(int(path.name))
        return found

    def _space(self, name: str) -> str:
        return f"{self._id}-{name}"

    def _look(self) -> None:
        while not self._ended.wait(PERIOD):
            self.memory.look(self.processes())

    def _remove(self) -> None:
        for name in ("hub", *self.names):
            subprocess.run(["ip", "netns", "del", self._space(name)], capture_output=True, check=False)


def ip(*arguments: str) -> str:
    """The output of iproute2's command."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def _sent(space: str) -> int:
    return int(json.loads(ip("-n", space, "-j", "-s", "link", "show", "dev", CABLE))[0]["stats64"]["tx"]["bytes"])

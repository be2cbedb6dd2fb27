"""The ranks of a launch tell rank 0 what they see and what they measure with each other; no wait is without an end."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from splitcom_dist.comm import mpi_world
from splitcom_dist.comm.channels import Channel, GlooChannel, MpiChannel
from splitcom_dist.comm.speed import Pair
from splitcom_dist.doctor.matches import from_values, play, problems
from splitcom_dist.doctor.sight import Sight, from_json
from splitcom_dist.errors import UserError
from splitcom_dist.place import Place
from splitcom_dist.rendezvous import find_rendezvous

GOODBYE_SECONDS = 3.0  # for the others to read the verdict from the store that rank 0 may keep


@dataclass(frozen=True)
class Findings:
    sights: dict[int, Sight]  # of the ranks that came
    pairs: list[Pair]
    problems: list[str]


class Consultation:
    """One rank's part in it; raises UserError where the store, and so rank 0, is not to be had."""

    def __init__(self, place: Place, transport: str, timeout_seconds: float) -> None:
        self._place = place
        self._transport = transport
        self._timeout = timeout_seconds
        self._prefix = f"doctor/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        meeting = find_rendezvous(place, os.environ, timeout_seconds)
        try:
            self._store = meeting.open_store(place, timeout_seconds)
        except (RuntimeError, ValueError) as error:
            where = f"{meeting.address}:{meeting.port}"
            if place.rank == 0:
                raise UserError(f"cannot open {where}: {str(error).splitlines()[0]}: export MASTER_PORT") from None
            raise UserError(
                f"rank 0 has not come to {where} within {timeout_seconds:.0f} s: see whether it started, and whether "
                "its host can be reached there"
            ) from None

    def lead(self, sight: Sight) -> Findings:
        """Rank 0's part, up to the verdict."""
        self._arrive(sight)
        sights = {rank: from_json(text) for rank, text in self._gather("sight", self._timeout).items()}
        if absent_or_double := self._roll(sights):
            self._set("roll", json.dumps(None))
            return Findings(sights, [], absent_or_double)
        with _probe() as probe:
            self._set("roll", json.dumps(probe))
            self._measure(probe)
            # A match has several transfers, and each its own timeout.
            told = self._gather("matches", 3 * self._timeout)
            heard = {rank: json.loads(text) for rank, text in told.items()}
        results = {rank: from_values(values) for rank, values in heard.items()}
        blind = [rank for rank, values in heard.items() if not values["sees_probe"]]
        found = problems(results, self._place.world_size, self._transport)
        if blind:
            found.append(
                f"{Path.cwd()} of rank 0 is not shared with ranks {', '.join(map(str, blind))}: "
                "start in, or name with --out, a folder on a file system that all hosts share"
            )
        return Findings(sights, [pair for result in results.values() for pair in result.pairs], found)

    def follow(self, sight: Sight) -> int:
        """Any other rank's part; returns rank 0's verdict, the exit code."""
        try:
            self._arrive(sight)
            probe = json.loads(self._await("roll", 2 * self._timeout))
            if probe is not None:
                self._measure(probe)
            verdict = int(self._await("verdict", 4 * self._timeout))
            self._store.add(f"{self._prefix}/left", 1)
        except RuntimeError:
            raise UserError("rank 0, which keeps the rendezvous store, has left: see its host") from None
        return verdict

    def dismiss(self, verdict: int) -> None:
        """Rank 0 sends the others home, and gives them time to go."""
        self._set("verdict", str(verdict))
        deadline = time.monotonic() + GOODBYE_SECONDS
        while self._store.add(f"{self._prefix}/left", 0) < self._place.world_size - 1 and time.monotonic() < deadline:
            time.sleep(0.02)

    def _arrive(self, sight: Sight) -> None:
        rank = self._place.rank
        if self._store.add(f"{self._prefix}/claims/{rank}", 1) > 1:
            raise UserError(f"this process and another both claim to be rank {rank}: give each its own RANK")
        self._tell("sight", sight.to_json())

    def _roll(self, sights: Mapping[int, Sight]) -> list[str]:
        late = f"has not come within {self._timeout:.0f} s: see its host and the launcher's output"
        lines = [f"rank {rank} {late}" for rank in range(self._place.world_size) if rank not in sights]
        for rank in sights:
            if (claims := self._store.add(f"{self._prefix}/claims/{rank}", 0)) > 1:
                lines.append(f"{claims} processes claim to be rank {rank}: give each its own RANK")
        return lines

    def _measure(self, probe: str) -> None:
        sees_probe = Path(probe).exists()
        result = play(self._place, self._open_channel, self._beat)
        if result.lost is not None or result.failure:
            self._store.add(f"{self._prefix}/losses", 1)
        self._tell("matches", json.dumps({**result.to_values(), "sees_probe": sees_probe}))

    def _open_channel(self) -> Channel:
        place = self._place
        if self._transport == "gloo":
            return GlooChannel(self._store, f"{self._prefix}/gloo", place.rank, place.world_size, self._timeout)
        world = mpi_world.join(self._timeout)
        world.check(place.rank, place.world_size)
        return MpiChannel(world, self._timeout)

    def _set(self, name: str, text: str) -> None:
        self._store.set(f"{self._prefix}/{name}", text)

    def _tell(self, name: str, text: str) -> None:
        self._set(f"{name}/{self._place.rank}", text)

    def _beat(self) -> None:
        self._store.add(f"{self._prefix}/beats", 1)

    def _gather(self, name: str, patience: float) -> dict[int, str]:
        """What the ranks told, once all have, or once nothing has moved for `patience` seconds."""
        keys = {rank: f"{self._prefix}/{name}/{rank}" for rank in range(self._place.world_size)}
        self._poll(lambda: all(self._store.check([key]) for key in keys.values()), patience)
        return {rank: self._store.get(key).decode() for rank, key in keys.items() if self._store.check([key])}

    def _await(self, name: str, patience: float) -> str:
        key = f"{self._prefix}/{name}"
        if not self._poll(lambda: self._store.check([key]), patience):
            raise UserError(f"rank 0 has been silent for {patience:.0f} s: see its host")
        return str(self._store.get(key).decode())

    def _poll(self, is_done: Callable[[], bool], patience: float) -> bool:
        """Polled, not blocked: a store's own timeout closes its connection."""
        beats, since = -1, time.monotonic()
        while not is_done():
            now = self._store.add(f"{self._prefix}/beats", 0)
            if now != beats:
                beats, since = now, time.monotonic()
            lost = self._store.add(f"{self._prefix}/losses", 0) > 0
            # Who lost a rank says so at once: then only those are waited for that wait for it themselves.
            if time.monotonic() - since > (min(patience, self._timeout) if lost else patience):
                return False
            time.sleep(0.02)
        return True


@contextmanager
def _probe() -> Iterator[str]:
    """A file in the working directory of rank 0, for the others to look for; where none can be written, the folder."""
    with suppress(OSError):
        with tempfile.NamedTemporaryFile(prefix=".splitcom-doctor-", dir=Path.cwd()) as file:
            yield file.name
        return
    yield str(Path.cwd())

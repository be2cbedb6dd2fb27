"""A run as it can be played again: its logs, and for every link packets and how near visits are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from splitcom_dist.links import links_of
from splitcom_dist.replay.course import Course
from splitcom_dist.replay.logs import RunLogs, read_logs
from splitcom_dist.replay.nearness import Nearness, nearness_of
from splitcom_dist.replay.packets import Packets, packets_of
from splitcom_dist.replay.visits import visits_of


@dataclass(frozen=True)
class Recording:
    logs: RunLogs
    course: Course
    links: Mapping[str, tuple[Packets, Nearness]]

    @property
    def is_sketched(self) -> bool:
        return len(self.logs.sketch) > 0

    @property
    def link_bytes(self) -> dict[str, int]:
        """What crossed in the run itself."""
        return {link: int(packets.wire.sum()) for link, (packets, _) in self.links.items()}


def open_recording(path: Path) -> Recording:
    """Of a run directory. Raises UserError if there are no logs of a finished run."""
    return recording_of(read_logs(path))


def recording_of(logs: RunLogs) -> Recording:
    """Of logs that have been read."""
    links = {}
    for link in links_of(logs.config.model.tail_layers):
        packets = packets_of(logs, link)
        links[link] = packets, nearness_of(visits_of(logs, packets))
    return Recording(logs, Course(logs), links)

"""What is wrong, each in one line with its mend: pure functions of what the ranks saw and measured."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from splitcom_dist.comm.speed import Pair
from splitcom_dist.doctor.sight import Sight

LEAST_FREE_BYTES = 10**9
CLOCK_SECONDS = 1.0  # time stamps of different hosts are compared in seconds


def of_sights(sights: Mapping[int, Sight]) -> list[str]:
    """Everything that is wrong with what the ranks saw."""
    return [line for check in (of_folders, of_places, of_versions, of_addresses) for line in check(sights)]


def of_folders(sights: Mapping[int, Sight]) -> Iterator[str]:
    """Once for every folder of every host."""
    folders = {(sight.host.name, sight.folder.path): sight.folder for sight in sights.values()}
    for (host, path), folder in folders.items():
        if not folder.writable:
            yield f"{path} on {host} cannot be written: start in a folder of yours, or name one with --out"
        elif folder.free_bytes < LEAST_FREE_BYTES:
            free = folder.free_bytes / 1e6
            yield f"{path} on {host} has {free:.0f} MB left: make space, or name another folder with --out"
        if folder.no_lock:
            yield (
                f"{path} on {host} ({folder.file_system}) does not lock files for HDF5 ({folder.no_lock}): "
                "use another file system for --out, or export HDF5_USE_FILE_LOCKING=FALSE"
            )


def of_places(sights: Mapping[int, Sight]) -> Iterator[str]:
    """Local ranks that collide, or that do not fit the ranks which are on the host."""
    all_came = all(sight.place is None or sight.place.world_size == len(sights) for sight in sights.values())
    here: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for rank, sight in sorted(sights.items()):
        if sight.place is not None:
            here[sight.host.name][sight.place.local_rank].append(rank)
    for host, claims in here.items():
        count = sum(map(len, claims.values()))
        for local_rank, ranks in claims.items():
            if len(ranks) > 1:
                yield (
                    f"ranks {_listed(ranks)} on {host} all claim local rank {local_rank}: "
                    "start every host's ranks by one launcher, or export LOCAL_RANK"
                )
            elif local_rank >= count and all_came:
                yield (
                    f"rank {ranks[0]} claims local rank {local_rank}, but {host} has {count} of the ranks: "
                    "export LOCAL_RANK, its number among the ranks of its host"
                )


def of_versions(sights: Mapping[int, Sight]) -> Iterator[str]:
    names = sorted({name for sight in sights.values() for name in sight.versions})
    for name in names:
        found: dict[str, list[int]] = defaultdict(list)
        for rank, sight in sorted(sights.items()):
            found[sight.versions.get(name, "not installed")].append(rank)
        if len(found) > 1:
            differing = "; ".join(f"{version} on {_named(ranks)}" for version, ranks in found.items())
            yield f"{name} differs between ranks ({differing}): give all hosts one environment"


def of_addresses(sights: Mapping[int, Sight]) -> Iterator[str]:
    """Gloo tells the others the address that a host's own name resolves to there."""
    hosts = {sight.host.machine: sight for sight in sights.values()}
    for name, sight in hosts.items():
        itself = [address for address in sight.host.addresses if address.startswith("127.")]
        if len(hosts) > 1 and itself and "GLOO_SOCKET_IFNAME" not in sight.variables:
            yield (
                f"{name} resolves to {itself[0]} on itself, where other hosts cannot reach it: "
                "correct its /etc/hosts, or export GLOO_SOCKET_IFNAME, the interface of the network between them"
            )


def of_clocks(pairs: Sequence[Pair]) -> Iterator[str]:
    for pair in pairs:
        if pair.first == 0 and abs(pair.clock_offset_seconds) - pair.clock_error_seconds > CLOCK_SECONDS:
            apart = pair.clock_offset_seconds
            yield f"the clock of rank {pair.second} is {apart:+.1f} s from that of rank 0: run an NTP client on both"


def _named(ranks: Sequence[int]) -> str:
    return f"{'ranks' if len(ranks) > 1 else 'rank'} {_listed(ranks)}"


def _listed(ranks: Sequence[int]) -> str:
    """`0, 1 and 4`."""
    *most, last = map(str, ranks)
    return f"{', '.join(most)} and {last}" if most else last

"""What the doctor prints: what it sees here, a table of ranks, a table of pairs."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from splitcom_dist.comm.speed import Pair
from splitcom_dist.doctor.machine import Folder, Host
from splitcom_dist.doctor.sight import Sight
from splitcom_dist.place import Place

MOST_PAIRS = 28  # of 8 ranks; of more, the slowest are shown

GIB = 2**30


def print_sight(sight: Sight, console: Console) -> None:
    """What one process sees."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    rows = {
        "launcher": _launcher(sight.place),
        "host": _host(sight.host),
        "devices": "; ".join(sight.host.devices) or "none but the CPU",
        "torch": f"backends {', '.join(sight.backends)}",
        "MPI": sight.mpi,
        "Slurm": sight.slurm or "not installed",
        "variables": ", ".join(f"{name}={value}" for name, value in sight.variables.items()) or "none of interest",
        "versions": ", ".join(f"{name} {version}" for name, version in sight.versions.items()),
        "folder": _folder(sight.folder),
    }
    for name, text in rows.items():
        table.add_row(name, text)
    console.print(table, highlight=False)


def print_ranks(sights: Mapping[int, Sight], console: Console) -> None:
    """A row a rank."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for header in ("rank", "host", "local rank", "cores", "memory", "device"):
        table.add_column(header, justify="left" if header in ("host", "device") else "right", no_wrap=True)
    for rank, sight in sorted(sights.items()):
        host, local_rank = sight.host, sight.place.local_rank if sight.place else 0
        device = host.devices[local_rank % len(host.devices)] if host.devices else "CPU"  # as runtime.device=auto
        memory = f"{host.memory_bytes / GIB:.0f} GiB"
        table.add_row(str(rank), host.name, str(local_rank), str(host.cores), memory, device)
    console.print(table, highlight=False)


def print_pairs(pairs: Sequence[Pair], transport: str, console: Console) -> None:
    """A row a pair; of many pairs, those with the least bandwidth."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(transport, no_wrap=True)
    for header in ("160 bytes, there and back", "1 MiB →", "1 MiB ←", "clock"):
        table.add_column(header, justify="right", no_wrap=True)
    slowest = sorted(pairs, key=lambda pair: min(pair.forward, pair.backward))[:MOST_PAIRS]
    for pair in sorted(slowest, key=lambda pair: (pair.first, pair.second)):
        table.add_row(
            f"{pair.first} – {pair.second}",  # noqa: RUF001
            f"{1e6 * pair.round_trip_seconds:,.0f} µs",
            _rate(pair.forward),
            _rate(pair.backward),
            f"{1e3 * pair.clock_offset_seconds:+.1f} ms",
        )
    console.print(table, highlight=False)
    if len(pairs) > MOST_PAIRS:
        console.print(f"the slowest of {len(pairs)} pairs; --json has all", style="dim", highlight=False)


def _launcher(place: Place | None) -> str:
    if place is None:
        return "none: `splitcom train` starts all ranks on this machine"
    where = f"rank {place.rank} of {place.world_size}, local rank {place.local_rank} of {place.local_world_size}"
    return f"{place.launcher}, known by {place.told_by}: {where}"


def _host(host: Host) -> str:
    addresses = ", ".join(host.addresses) or "its name does not resolve"
    memory = f"{host.available_bytes / GIB:.1f} of {host.memory_bytes / GIB:.1f} GiB free"
    return f"{host.name} ({addresses}), {host.cores} of {host.all_cores} cores, {memory}"


def _folder(folder: Folder) -> str:
    state = ["writable" if folder.writable else "not writable", f"{folder.free_bytes / GIB:.1f} GiB free"]
    if folder.writable:
        state.append("HDF5 locks files" if not folder.no_lock else "HDF5 cannot lock files")
    return f"{folder.path} ({folder.file_system}), {', '.join(state)}"


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e6:,.0f} MB/s" if bytes_per_second >= 1e7 else f"{bytes_per_second / 1e6:.2f} MB/s"

"""What the keyed reference store takes: a shard filled and revisited on disk, and bytes an element in memory.

    python benchmarks/store_memory.py --gigabytes 10 --folder /tmp/references

Samples of 53 rows of 768, eight a packet, as int8: put in order, then each visited once in shuffled order (get and
put). Every row read is compared with what was put, and the digest must come back. Needs the disk space that
--gigabytes says, which is freed at the end, and some minutes; prints a table and writes it to
benchmarks/results/store_memory.md.
"""

import argparse
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from splitcom_dist.codec.references.keyed_store import DTYPES, KeyedStore

RESULT = Path(__file__).parent / "results" / "store_memory.md"
SAMPLE, WIDTH, BATCH, VARIANTS, SEED = 53, 768, 8, 7, 0
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10.0, help="bytes of references in the shard, in 10^9")
    parser.add_argument("--folder", type=Path, required=True, help="where the files go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    versions = f"torch {version('torch')}, Python {platform.python_version()}, Linux {platform.release()}"
    parts = [f"Seed {SEED}, one thread, {versions}. MB are 10^6 bytes, MiB 2^20."]
    parts.append(on_disk(int(options.gigabytes * 1e9), options.folder))
    print(parts[-1], flush=True)
    parts.append(in_memory())
    print(parts[-1])
    RESULT.write_text("\n\n".join(parts) + "\n")


def on_disk(size: int, folder: Path) -> str:
    """Fill and revisit a shard; the table of speeds and of resident memory."""
    generator = torch.Generator().manual_seed(SEED)
    variants = torch.randn(VARIANTS, SAMPLE, WIDTH, generator=generator)
    store = KeyedStore(WIDTH, "int8", folder)
    try:
        kept = store.put(torch.arange(VARIANTS * SAMPLE), variants.view(-1, WIDTH)).view_as(variants)
        store.clear()
        samples = size // (SAMPLE * (WIDTH + 2)) // BATCH * BATCH
        order = torch.randperm(samples, generator=generator)
        before, fill, get, put = resident("VmRSS"), Clock(), Clock(), Clock()
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        for begin in range(0, samples, BATCH):  # not split(): its thirty thousand views would count as the store's
            batch = torch.arange(begin, begin + BATCH)
            rows = variants[batch % VARIANTS].view(-1, WIDTH)
            with fill:
                store.put(keys_of(batch), rows)
        filled, digest = resident("VmHWM"), store.digest
        for begin in range(0, samples, BATCH):
            batch = order[begin : begin + BATCH]
            with get:
                found = store.get(keys_of(batch))
            assert torch.equal(found, kept[batch % VARIANTS].view(-1, WIDTH)), "a row came back other than it was put"
            rows = variants[batch % VARIANTS].view(-1, WIDTH)
            with put:
                store.put(keys_of(batch), rows)
        assert store.digest == digest and len(store) == samples * SAMPLE
        peak, stored = resident("VmHWM"), store.nbytes
        file_bytes = sum(path.stat().st_size for path in folder.iterdir())
    finally:
        store.close()
    elements = samples * SAMPLE * WIDTH
    return (
        table(
            f"Disk mode, int8: {samples * SAMPLE:,} rows of {WIDTH} in {samples:,} samples, {stored / 1e9:.2f} GB",
            ["resident memory", "MiB"],
            [
                ["before the fill (interpreter, torch, batch)", f"{before / MIB:.1f}"],
                ["peak of the fill", f"{filled / MIB:.1f}"],
                ["peak of fill and shuffled revisit", f"{peak / MIB:.1f}"],
                ["of which the store's", f"{(peak - before) / MIB:.1f}"],
            ],
        )
        + table(
            "",
            ["", "MB/s of references", "ms a packet of 424 rows", "of which CPU"],
            [
                [name, f"{stored / 1e6 / clock.wall:,.0f}", *(f"{1e3 * t * BATCH / samples:.2f}" for t in clock.both())]
                for name, clock in (("put, first visit", fill), ("get, shuffled", get), ("put, shuffled", put))
            ],
        )
        + f"\n\n{stored / elements:.3f} bytes an element with scales, {file_bytes / elements:.3f} in files."
    )


def in_memory(rows: int = 200_000, packet: int = 250) -> str:
    """The table of bytes an element by dtype and width, without and with a limit on the rows."""
    lines = []
    for dtype in DTYPES:
        cells = []
        for width in (192, 576, 768):
            for limit in (0, rows):
                values = torch.randn(packet, width, generator=torch.Generator().manual_seed(SEED))
                store = KeyedStore(width, dtype, limit=limit)
                store.put(torch.arange(packet), values)
                store.clear()
                before = resident("VmRSS")
                for begin in range(0, rows, packet):
                    store.put(torch.arange(begin, begin + packet), values)
                grown = resident("VmRSS") - before
                if limit == 0:
                    cells.append(f"{store.nbytes / (rows * width):.3f}")
                cells.append(f"{grown / (rows * width):.3f}")
                store.close()
        lines.append([dtype, *cells])
    head = [f"d = {width}{what}" for width in (192, 576, 768) for what in ("", ", resident", ", resident with a limit")]
    return table(f"Memory mode: bytes an element, {rows:,} rows; resident is the growth of VmRSS", ["", *head], lines)


class Clock:
    """Sums the seconds of what it encloses, by the wall and of this process's CPU time."""

    wall = cpu = 0.0

    def __enter__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self.start[0]
        self.cpu += time.process_time() - self.start[1]

    def both(self) -> tuple[float, float]:
        return self.wall, self.cpu


def keys_of(batch: Tensor) -> Tensor:
    return (batch.unsqueeze(1) * SAMPLE + torch.arange(SAMPLE)).view(-1)


def resident(what: str) -> int:
    """VmRSS or VmHWM (its peak) of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))


def table(title: str, head: list[str], lines: list[list[str]]) -> str:
    rule = "|".join(["", "---", *["---:"] * (len(head) - 1), ""])
    rows = [f"| {' | '.join(line)} |" for line in (head, *lines)]
    return "\n".join([*([title, ""] if title else ["", ""]), rows[0], rule, *rows[1:]])


if __name__ == "__main__":
    main()

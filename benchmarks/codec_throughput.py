"""How fast codecs encode and decode: GB/s of float32 rows, against a copy of the same rows in memory.

    python benchmarks/codec_throughput.py [--width 768] [--visits 6] [--compile]

Each link of each codec of configs/codec, standard shape: batches of 8 samples x 128 positions, every sample visited
several times. Rows are Gaussian with a spectrum that falls as a trained model's does, and drift by 3 % a visit; one
thread. The first visit, in which most codecs send everything, stands alone; of the later ones the median over all
batches counts, as it does for the copy, which is timed between batches. Writes
benchmarks/results/codec_throughput.md, or codec_throughput_compiled.md with `--compile` (runtime.compile=true); two
minutes on an idle core.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from machine import machine
from torch import Tensor

from splitcom_dist.codec.ends import make_decoder, make_encoder
from splitcom_dist.codec.residence import residence_of
from splitcom_dist.codec.visit import Visit
from splitcom_dist.config.files import load_config, preset_folder
from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.devices import HOST
from splitcom_dist.links import STANDARD

RESULTS = Path(__file__).parent / "results" / "codec_throughput.md"
SAMPLES, POSITIONS, BATCHES, DRIFT, SEED = 8, 128, 3, 0.03, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--visits", type=int, default=6, help="of each sample, the first one among them")
    parser.add_argument(
        "--codecs", nargs="+", default=sorted(each.stem for each in (preset_folder() / "codec").iterdir())
    )
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = SAMPLES * POSITIONS * options.width * 4
    lines = [
        f"# {'Compiled codecs' if options.compile else 'Codecs'} against a copy in memory",
        "",
        f"GB/s of float32 rows, {SAMPLES} x {POSITIONS} positions of {options.width} ({size / 1e6:.1f} MB a "
        f"batch), one thread; medians of {BATCHES} batches in the first visit, {BATCHES * (options.visits - 1)} "
        f"in later ones; `sent` is the share of the float32 bytes that crosses in these. Seed {SEED}. {machine()}",
        "",
        "| codec | link | encode, first | decode, first | encode | decode | copy | encode/copy | decode/copy | sent |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    done: dict[str, str] = {}  # several presets treat a link alike
    for codec in options.codecs:
        config = load_config([], [f"codec={codec}"]).codec
        for link in STANDARD:
            own: LinkCodecConfig = getattr(config, link)
            if own.gate == "never":
                continue
            if (told := repr(own)) not in done:
                done[told] = figures(own, options.width, options.visits, options.compile)
                lines.append(f"| {codec} | {link} | {done[told]} |")
                print(lines[-1], flush=True)
    results = RESULTS.with_stem(f"{RESULTS.stem}_compiled") if options.compile else RESULTS
    results.write_text("\n".join([*lines, ""]))


def figures(config: LinkCodecConfig, width: int, visits: int, compiled: bool) -> str:
    """The cells of one link."""
    residence = residence_of(config, HOST, "gloo", compiled)
    encoder = make_encoder(config, width, torch.float32, SEED, residence=residence)
    decoder = make_decoder(config, width, torch.float32, residence=residence)
    size, aside = SAMPLES * POSITIONS * width * 4, torch.zeros(SAMPLES * POSITIONS, width)
    first: list[tuple[float, float]] = []
    later: list[tuple[float, float]] = []
    copies, sent = [], 0
    for number, (visit, rows) in enumerate(visited(width, visits)):
        started = time.perf_counter()
        aside.copy_(rows)
        copied = time.perf_counter()
        frames = encoder.encode(rows, visit)
        encoded = time.perf_counter()
        sections = {name: section.clone() for name, section in frames.sections.items()}
        received = time.perf_counter()
        decoder.decode(sections, visit)
        copies.append(copied - started)
        (first if number < BATCHES else later).append((encoded - copied, time.perf_counter() - received))
        sent += sum(map(len, sections.values())) if number >= BATCHES else 0
    assert encoder.store.digest == decoder.store.digest
    at_first, at_last = (tuple(median(ends) for ends in zip(*times, strict=True)) for times in (first, later))
    copy, share = median(copies), sent / (size * len(later))
    rates = " | ".join(f"{size / seconds / 1e9:.2f}" for seconds in (*at_first, *at_last, copy))
    return f"{rates} | {copy / at_last[0]:.3f} | {copy / at_last[1]:.3f} | {100 * share:.1f} %"


def visited(width: int, visits: int, positions: int = POSITIONS) -> Iterator[tuple[Visit, Tensor]]:
    """Batch after batch, visit after visit, with rows that move a little each time."""
    generator = torch.Generator().manual_seed(SEED)
    spectrum = torch.arange(1, width + 1) ** -0.5
    mix = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    shape = BATCHES, SAMPLES * positions, width
    rows = (torch.randn(shape, generator=generator) * spectrum) @ mix
    noise = torch.randn(shape, generator=generator)
    step = DRIFT * noise * (rows.norm() / noise.norm())
    lengths = torch.full((SAMPLES,), positions)
    for number in range(visits):
        for batch in range(BATCHES):
            samples = list(range(batch * SAMPLES, (batch + 1) * SAMPLES))
            paths = [np.arange(sample * positions, (sample + 1) * positions) for sample in samples]
            yield Visit(samples, lengths, paths), rows[batch] + number * step[batch]


if __name__ == "__main__":
    main()

"""Entropy coders for the symbols of the `video` codec: bytes and time of rANS, range coder, zstandard and zlib.

    OMP_NUM_THREADS=1 python benchmarks/entropy_coders.py --data ../shared/data/e2e

Symbols are synthetic (Gaussian and Laplacian, rounded) and real: the embedded model's activations after 2 blocks,
rotated by a 64-block Hadamard transform, with a step of 0.35 rms of the row, as they are and predicted from earlier
rows. Every time is the least of several; each decoder must return the symbols. Also written to benchmarks/results/.
"""

import argparse
import functools
import json
import os
import platform
import time
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import constriction
import numpy as np
import torch
import zstandard
from numpy.typing import NDArray

from splitcom_dist.codec.entropy import coder as entropy
from splitcom_dist.codec.entropy import tables
from splitcom_dist.codec.ragged import to_ragged
from splitcom_dist.data.batching import collate
from splitcom_dist.data.corpora import load
from splitcom_dist.data.tokens import tokenize
from splitcom_dist.models.sources import find_model
from splitcom_dist.models.split import forward_blocks, head, load_part

RESULTS = Path(__file__).parent / "results"
SEED = 0
ROUNDS = 5
STEP = 0.35  # of the row's rms
ESCAPE8, ESCAPE4 = -128, -8  # the int8 or nibble that says: see the list of int32 behind

Symbols = NDArray[np.int32]
Rows = NDArray[np.float32]
Coder = tuple[Callable[[Symbols], bytes], Callable[[bytes, int, int], Symbols]]


def with_escapes(symbols: Symbols, escape: int) -> tuple[Symbols, bytes]:
    """Symbols with `escape` for those that are not in (escape, -escape), and these as int32."""
    beyond = np.abs(symbols) >= -escape
    return np.where(beyond, np.int32(escape), symbols), symbols[beyond].tobytes()


def without_escapes(small: Symbols, large: bytes, escape: int) -> Symbols:
    small[small == escape] = np.frombuffer(large, np.int32)
    return small


def int8_coder(squeeze: Callable[[bytes], bytes], expand: Callable[[bytes], bytes]) -> Coder:
    def pack(symbols: Symbols) -> bytes:
        small, large = with_escapes(symbols, ESCAPE8)
        return squeeze(small.astype(np.int8).tobytes() + large)

    def unpack(packed: bytes, rows: int, width: int) -> Symbols:
        plain, count = expand(packed), rows * width
        small = np.frombuffer(plain, np.int8, count).astype(np.int32)
        return without_escapes(small, plain[count:], ESCAPE8).reshape(rows, width)

    return pack, unpack


def nibble_coder(squeeze: Callable[[bytes], bytes], expand: Callable[[bytes], bytes]) -> Coder:
    def pack(symbols: Symbols) -> bytes:
        small, large = with_escapes(symbols, ESCAPE4)
        nibbles = (small & 15).astype(np.uint8).reshape(-1)
        return squeeze((nibbles[0::2] << 4 | nibbles[1::2]).tobytes() + large)

    def unpack(packed: bytes, rows: int, width: int) -> Symbols:
        plain, count = expand(packed), rows * width
        pairs = np.frombuffer(plain, np.int8, count // 2)
        small = np.stack([pairs >> 4, (pairs << 4) >> 4], axis=1).reshape(-1).astype(np.int32)
        return without_escapes(small, plain[count // 2 :], ESCAPE4).reshape(rows, width)

    return pack, unpack


def range_coder() -> Coder:
    """constriction's range coder with the very tables of `pack_symbols`; one band, no escapes."""

    def pack(symbols: Symbols) -> bytes:
        flat = symbols.reshape(-1)
        table, low, weights = tables.choose_table(np.bincount(flat + tables.TOP, minlength=tables.CLASSES))
        coder = constriction.stream.queue.RangeEncoder()
        coder.encode(flat - np.int32(low), entropy._model(weights))
        return table + bytes(coder.get_compressed().tobytes())

    def unpack(packed: bytes, rows: int, width: int) -> Symbols:
        low, weights, at = tables.read_table(packed, 0)
        coder = constriction.stream.queue.RangeDecoder(np.frombuffer(packed[at:], np.uint32))
        symbols: Symbols = coder.decode(entropy._model(weights), rows * width) + np.int32(low)
        return symbols.reshape(rows, width)

    return pack, unpack


def coders() -> dict[str, Coder]:
    found: dict[str, Coder] = {
        "rANS": (lambda s: entropy.pack_symbols(s, [s.shape[1]]), lambda p, r, d: entropy.unpack_symbols(p, r, [d])),
        "range coder": range_coder(),
    }
    expand = zstandard.ZstdDecompressor().decompress
    for level in (1, 3, 9):
        squeeze = zstandard.ZstdCompressor(level).compress
        found[f"zstd -{level}, int8"] = int8_coder(squeeze, expand)
        found[f"zstd -{level}, nibbles"] = nibble_coder(squeeze, expand)
    for level in (1, 6):
        found[f"zlib -{level}, int8"] = int8_coder(functools.partial(zlib.compress, level=level), zlib.decompress)
    return found


def symbol_sets(real: dict[str, Symbols]) -> dict[str, Symbols]:
    random = np.random.default_rng(SEED)
    sets: dict[str, Symbols] = {}
    for rows, width in ((10, 192), (300, 192), (4000, 576)):
        for std in (0.2, 0.5, 1.0, 2.0, 4.0):
            for shape, draw in (("Gaussian", random.normal(0, std, (rows, width))),
                                ("Laplacian", random.laplace(0, std / 2**0.5, (rows, width)))):  # fmt: skip
                sets[f"{shape}, std {std:g}, {rows} x {width}"] = np.rint(draw).astype(np.int32)
    for kind, symbols in real.items():
        for rows in (10, 300, 4000):
            sets[f"activations, {kind}, {rows} x 192"] = np.ascontiguousarray(symbols[:rows])
    return sets


def activations(data: Path, rows: int) -> tuple[Rows, Rows, list[tuple[int, ...]]]:
    """(rows, d) of E2E's first validation texts after 2 blocks: all rows; one for each distinct token prefix; these.

    Equal prefixes have equal rows; the codec shares them, so an entropy coder never meets the second.
    """
    source = find_model("tiny")
    examples = load("e2e", str(data), "validation", limit=rows // 8)
    samples = tokenize(examples, source.tokenizer(), 128, "truncate").samples
    model = load_part(source, head(2), torch.float32).eval()
    found, distinct = [], []
    prefixes: dict[tuple[int, ...], None] = {}
    with torch.no_grad():
        for start in range(0, len(samples), 16):
            batch = collate(samples[start : start + 16])
            found.append(to_ragged(forward_blocks(model, input_ids=batch.input_ids), batch.lengths))
            for ids, length in zip(batch.input_ids.tolist(), batch.lengths.tolist(), strict=True):
                for end in range(1, length + 1):
                    distinct.append(tuple(ids[:end]) not in prefixes)
                    prefixes[tuple(ids[:end])] = None
    every = torch.cat(found).numpy()
    fresh = every[np.array(distinct)]
    assert len(fresh) >= rows
    return every[:rows], fresh[:rows], list(prefixes)[:rows]


def rotate(rows: Rows) -> Rows:
    hadamard: Rows = np.ones((1, 1), np.float32)
    while len(hadamard) < 64:
        hadamard = np.vstack([np.hstack([hadamard, hadamard]), np.hstack([hadamard, -hadamard])])
    rotated: Rows = np.matmul(rows.reshape(len(rows), -1, 64), hadamard / 8)
    return rotated.reshape(rows.shape)


def step_codes(rotated: Rows) -> NDArray[np.uint8]:
    """Eighths of an octave, rounded up: the step is STEP rms at most 9 % enlarged."""
    codes: Rows = np.ceil(8 * np.log2(STEP * np.sqrt((rotated**2).mean(axis=1)))) + 128
    return codes.astype(np.uint8)


def quantize(rotated: Rows, references: Sequence[int] | None = None) -> Symbols:
    """Symbols of the rows, or of what is left of each after its reference (an earlier row as decoded; -1: none)."""
    steps = 2 ** ((step_codes(rotated).astype(np.float32) - 128) / 8)
    symbols, decoded = np.zeros(rotated.shape, np.int32), np.zeros_like(rotated)
    for at, (row, step) in enumerate(zip(rotated, steps, strict=True)):
        symbols[at] = np.rint(row / step)
        if references and references[at] >= 0:
            base = decoded[references[at]]
            rest = np.rint((row - base) / step)
            if np.log2(1 + abs(rest)).sum() < np.log2(1 + abs(symbols[at])).sum():
                symbols[at], decoded[at] = rest, base
        decoded[at] += symbols[at] * step
    return symbols


def longest_suffix(prefixes: Sequence[tuple[int, ...]], most: int = 8) -> list[int]:
    """For each row the latest earlier one whose last tokens agree in the greatest number, or -1."""
    latest: dict[tuple[int, ...], int] = {}
    found = []
    for at, prefix in enumerate(prefixes):
        suffixes = [prefix[-length:] for length in range(min(most, len(prefix)), 0, -1)]
        found.append(next((latest[suffix] for suffix in suffixes if suffix in latest), -1))
        latest.update(dict.fromkeys(suffixes, at))
    return found


def best(work: Callable[[], Any]) -> tuple[float, Any]:
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


def measure(symbols: Symbols, coder: Coder) -> dict[str, float]:
    pack, unpack = coder
    encode, packed = best(lambda: pack(symbols))
    decode, again = best(lambda: unpack(packed, *symbols.shape))
    assert np.array_equal(again, symbols)
    return {"bytes": len(packed), "encode_seconds": encode, "decode_seconds": decode}


def entropy_bits(values: NDArray[Any]) -> float:
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / values.size)).sum() / values.size)


def symbol_table(figures: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "| symbols | coder | bits/symbol | over entropy | encode Msym/s | decode Msym/s |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, entry in figures.items():
        count, bits = entry["symbols"], entry["entropy_bits"]
        lines.append(f"| {name} | *entropy* | {bits:.4f} | | | |")
        for coder, row in entry["coders"].items():
            spent = 8 * row["bytes"] / count
            rates = (f"{count / row[key] / 1e6:.1f}" for key in ("encode_seconds", "decode_seconds"))
            lines.append(f"| | {coder} | {spent:.4f} | {100 * (spent / bits - 1):+.1f} % | {' | '.join(rates)} |")
    return lines


def summary(sets: list[dict[str, dict[str, float]]]) -> list[str]:
    """Geometric means of ratios to rANS, and below which rate of the link rANS delivers a packet sooner."""

    def seconds(row: dict[str, float]) -> float:
        return row["encode_seconds"] + row["decode_seconds"]

    def mean(value: Callable[[dict[str, float]], float], coder: str) -> float:
        return float(np.exp(np.mean([np.log(value(each[coder]) / value(each["rANS"])) for each in sets])))

    def even(coder: str) -> str:
        more = sum(each[coder]["bytes"] - each["rANS"]["bytes"] for each in sets)
        longer = sum(seconds(each["rANS"]) - seconds(each[coder]) for each in sets)
        return "always" if longer <= 0 <= more else f"{8e-6 * more / longer:.0f} Mbit/s" if more > 0 else "never"

    measures: tuple[Callable[[dict[str, float]], float], ...] = (
        lambda row: row["bytes"],
        seconds,
        lambda row: row["bytes"] * seconds(row),
    )
    lines = ["| coder | bytes | time | bytes x time | rANS sooner below |", "|---|--:|--:|--:|--:|"]
    for coder in sets[0]:
        ratios = " | ".join(f"{mean(value, coder):.3f}" for value in measures)
        lines.append(f"| {coder} | {ratios} | {'-' if coder == 'rANS' else even(coder)} |")
    return lines


def bands_table(real: Symbols, predicted: Symbols) -> tuple[list[str], dict[str, int]]:
    """Bytes with one table for all, a table a band of columns, and a packet a group of rows of like residual."""
    random = np.random.default_rng(SEED)
    mixed = np.hstack([np.rint(random.normal(0, std, (300, n))) for std, n in ((8, 8), (2, 24), (0.3, 160))])
    found = {}
    for name, symbols, bands in (
        ("activations, distinct prefixes, 300 x 192", real[:300], [64, 128, 192]),
        ("activations, distinct prefixes, 4000 x 192", real, [64, 128, 192]),
        ("Gaussian std 8, 2, 0.3, 300 x 192", mixed.astype(np.int32), [8, 32, 192]),
    ):
        for choice in ([192], bands):
            found[f"{name}, bands {choice}"] = len(entropy.pack_symbols(symbols, choice))
    for rows in (300, 4000):
        symbols, name = predicted[:rows], f"activations, predicted, {rows} x 192"
        groups = np.floor(np.log2(abs(symbols).mean(axis=1) + 2**-10) + 10).astype(np.uint8)
        parts = [entropy.pack_symbols(symbols[groups == group], [192]) for group in np.unique(groups)]
        found[f"{name}, bands [192]"] = len(entropy.pack_symbols(symbols, [192]))
        found[f"{name}, a packet an octave of the rows' mean magnitude, and these octaves"] = sum(
            map(len, [*parts, entropy.pack_bytes(groups)])
        )
        pack, _ = coders()["zstd -1, nibbles"]
        found[f"{name}, zstd -1, nibbles"] = len(pack(symbols))
    return [f"| {name} | {size:,} |" for name, size in found.items()], found


def byte_strings(codes: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    random = np.random.default_rng(SEED)
    found = {"step codes of activations, 300": codes[:300], "step codes of activations, 4000": codes}
    for skips in (0.0, 0.5, 0.9, 0.99, 1.0):
        odds = [(1 - skips) / 4, 3 * (1 - skips) / 4, skips]
        found[f"mode map, 4000, {100 * skips:g} % skips"] = random.choice(3, 4000, p=odds).astype(np.uint8)
    runs = np.repeat(random.choice(3, 400, p=[0.1, 0.2, 0.7]), random.geometric(0.1, 400))[:4000]
    found[f"mode map in runs of 10, {len(runs)}"] = runs.astype(np.uint8)
    return found


def bytes_table(strings: dict[str, NDArray[np.uint8]]) -> tuple[list[str], dict[str, dict[str, float]]]:
    lines = ["| string | entropy, bytes | pack_bytes | zstd -9 | zlib -6 |", "|---|--:|--:|--:|--:|"]
    figures = {}
    for name, values in strings.items():
        packed = entropy.pack_bytes(values)
        assert np.array_equal(entropy.unpack_bytes(packed, len(values)), values)
        plain = values.tobytes()
        row = {
            "entropy": round(entropy_bits(values) * len(values) / 8, 1) + 0.0,
            "pack_bytes": len(packed),
            "zstd": len(zstandard.ZstdCompressor(9).compress(plain)),
            "zlib": len(zlib.compress(plain, 6)),
        }
        figures[name] = row
        lines.append(f"| {name} | {' | '.join(f'{value:,}' for value in row.values())} |")
    return lines, figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of E2E's files")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    every, fresh, prefixes = activations(options.data, 4000)
    rotated = rotate(fresh)
    codes, real = step_codes(rotated), quantize(rotated)
    kinds = {"all rows": quantize(rotate(every)), "distinct prefixes": real}
    kinds["predicted"] = quantize(rotated, longest_suffix(prefixes))
    figures: dict[str, dict[str, Any]] = {}
    for name, symbols in symbol_sets(kinds).items():
        rows = {coder: measure(symbols, pair) for coder, pair in coders().items()}
        figures[name] = {"symbols": symbols.size, "entropy_bits": entropy_bits(symbols), "coders": rows}
    large = {name: entry["coders"] for name, entry in figures.items() if ", 10 x" not in name}
    bands, bands_figures = bands_table(real, kinds["predicted"])
    strings, strings_figures = bytes_table(byte_strings(codes))
    packages = ", ".join(f"{name} {version(name)}" for name in ("constriction", "zstandard", "numpy", "torch"))
    where = f"{platform.machine()}, Python {platform.python_version()}, {packages}, zlib {zlib.ZLIB_RUNTIME_VERSION}"
    text = "\n".join([
        f"One core of {len(os.sched_getaffinity(0))}, {where}; seed {SEED}; least of {ROUNDS} times. Tables included.",
        "", "## Ratios to rANS", "",
        "Geometric means over packets of 300 and 4000 rows, encode + decode. The last column: on a link slower than "
        "this rANS delivers a packet sooner (encode, send, decode).", "",
        "Synthetic symbols:", "", *summary([rows for name, rows in large.items() if "std" in name]), "",
        "Activations, one row for each distinct token prefix:", "",
        *summary([rows for name, rows in large.items() if "distinct" in name]), "",
        "The same rows, each predicted from the latest row whose last tokens agree in the greatest number (the row's "
        "index, 2 bytes a row, is not counted):", "",
        *summary([rows for name, rows in large.items() if "predicted" in name]), "",
        "Activations, all rows (equal prefixes repeat whole rows; the codec shares them before it codes):", "",
        *summary([rows for name, rows in large.items() if "all rows" in name]), "",
        "rANS is kept. It has the fewest bytes of symbols that are independent of one another, as the residuals of a "
        "good prediction are, most of all if rows of like spread share a packet (next table). zstandard is several "
        "times as fast, so bytes x time is its, and it finds rows that resemble earlier ones; predicting them from "
        "those finds more. Time is a limit here, bytes are the aim.", "",
        "## One table, a table a band of columns, a packet a group of rows", "",
        "| symbols | bytes |", "|---|--:|", *bands, "",
        "## Byte strings", "", *strings, "",
        "## Symbols", "", *symbol_table(figures), "",
    ])  # fmt: skip
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "entropy_coders.md").write_text(text)
    everything = {"symbols": figures, "bands": bands_figures, "strings": strings_figures, "versions": where}
    (RESULTS / "entropy_coders.json").write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()

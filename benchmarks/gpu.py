"""Large models on one GPU: tokens a second of a split run, and what its codec takes there.

    python benchmarks/gpu.py [--shapes gpt2 gpt2_xl llama] [--codecs none int8 splitcom_int8] [--rounds 5] [--compile]

GPT-2 small, GPT-2 XL and a Llama of 1.6 billion weights, all random, in bfloat16: a client with the first two blocks, a
server and an aggregator share one device, 8 texts of 512 tokens a step. NCCL knows no two ranks on one device, so
payloads cross in host memory over TCP; where there is a device for each, say transport=nccl. The two ends of the
link up are then timed alone, on rows of the same size that drift by 3 % a visit, the device waited for before and
after; GB/s are of the rows. Medians over rounds, start-up and the first steps left out. `--compile` sets
runtime.compile=true. Writes benchmarks/results/gpu.md, or gpu_compiled.md; to try it without a GPU: --device cpu
--shapes tiny --tokens 128 --rounds 1.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import transformers
from codec_throughput import visited
from full_batches import SEED, full_texts
from machine import machine
from splitft_time import save_random
from step_marks import marked_run

from splitcom_dist.codec.ends import make_decoder, make_encoder
from splitcom_dist.codec.residence import residence_of
from splitcom_dist.config.files import load_config
from splitcom_dist.telemetry.summary import read

RESULTS = Path(__file__).parent / "results" / "gpu.md"
BATCH, WARM_UP, STEPS, VISITS = 8, 3, 10, 6
CONFIGS: dict[str, Callable[[], transformers.PretrainedConfig]] = {
    "tiny": lambda: transformers.GPT2Config(n_embd=128, n_layer=4, n_head=4),
    "gpt2": transformers.GPT2Config,
    "gpt2_xl": lambda: transformers.GPT2Config(n_embd=1600, n_layer=48, n_head=25),
    "llama": lambda: transformers.LlamaConfig(
        hidden_size=2048, num_hidden_layers=24, num_attention_heads=32, num_key_value_heads=8, intermediate_size=8192
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["gpt2", "gpt2_xl", "llama"], choices=list(CONFIGS))
    parser.add_argument("--codecs", nargs="+", default=["none", "int8", "splitcom_int8"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("more", nargs="*", metavar="key=value", help="settings of the run")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; to try it on the CPU: --device cpu --shapes tiny --tokens 128")
    device = torch.device(options.device)
    where = torch.cuda.get_device_name() if options.device == "cuda" else "no GPU"
    lines = [
        f"# Large models on one GPU{', codecs compiled' if options.compile else ''}",
        "",
        f"{where}; {BATCH} x {options.tokens} tokens a step, bfloat16, one client, cut after 2 blocks; medians of "
        f"{options.rounds} rounds. Seed {SEED}. {machine()}",
        "",
        "| model | codec | tokens/s | MB a step | encode, ms | decode, ms | of a step | encode, GB/s | decode, GB/s |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as scratch:
            model = Path(scratch) / shape
            torch.manual_seed(SEED)
            save_random(CONFIGS[shape](), model, torch.bfloat16)
            texts = full_texts(Path(scratch) / "texts", BATCH * (WARM_UP + STEPS + 1), options.tokens)
            compiled = f"runtime.compile={options.compile}".lower()
            run = [f"model.name={model}", f"runtime.device={options.device}", compiled, *texts, *options.more]
            paces: dict[str, list[tuple[float, float]]] = {codec: [] for codec in options.codecs}
            for number, codec in itertools.product(range(options.rounds), options.codecs):
                paces[codec].append(pace([*run, f"codec={codec}"], Path(scratch) / f"{codec}-{number}"))
        for codec in options.codecs:
            seconds, size = (median(column) for column in zip(*paces[codec], strict=True))
            lines.append(row(shape, codec, seconds, size, options.tokens, device, options.compile))
            print(lines[-1], file=sys.stderr, flush=True)
    text = "\n".join([*lines, ""])
    print(text)
    (RESULTS.with_stem(f"{RESULTS.stem}_compiled") if options.compile else RESULTS).write_text(text)


def pace(settings: list[str], scratch: Path) -> tuple[float, float]:
    """Seconds of a step, and the bytes that cross the cut in one."""
    fixed = ["model.cut_layer=2", "model.dtype=bfloat16", "roles.client_ranks=1", "fed.clients=1", "fed.every=1000"]
    _, marks = marked_run([*fixed, f"train.batch_size={BATCH}", "train.epochs=1", *settings], scratch)
    first, last = marks[1][WARM_UP], marks[1][-2]  # the server's; -1 is behind the last step
    links = read(scratch / "run" / "summary.json").links.values()
    steps = marks[1][-1].step
    return (last.clock - first.clock) / (last.step - first.step), sum(link["wire_bytes"] for link in links) / steps


def ends(codec: str, width: int, tokens: int, device: torch.device, compiled: bool) -> tuple[float, float]:
    """Median seconds of encoding and of decoding a batch of the link up that was visited before."""
    own = load_config([], [f"codec={codec}"]).codec.up_activation
    there = residence_of(own, device, "gloo", compiled)
    encoder = make_encoder(own, width, torch.bfloat16, SEED, residence=there)
    decoder = make_decoder(own, width, torch.bfloat16, residence=there)
    times: list[tuple[float, float]] = []
    for visit, rows in visited(width, VISITS, tokens):
        rows = rows.to(device, torch.bfloat16)
        marks = [now(device)]
        sections = encoder.encode(rows, visit).sections
        marks.append(now(device))
        decoder.decode(sections, visit)
        times.append((marks[1] - marks[0], now(device) - marks[1]))
    later = times[len(times) // VISITS :]
    encoding, decoding = (median(column) for column in zip(*later, strict=True))
    return encoding, decoding


def now(device: torch.device) -> float:
    """Seconds, with nothing left for the device to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def row(shape: str, codec: str, seconds: float, size: float, tokens: int, device: torch.device, compiled: bool) -> str:
    width = CONFIGS[shape]().hidden_size
    coding = ends(codec, width, tokens, device, compiled)
    rows = BATCH * tokens * width * torch.bfloat16.itemsize
    told = [f"{BATCH * tokens / seconds:,.0f}", f"{size / 1e6:.2f}", *(f"{1e3 * each:.2f}" for each in coding)]
    told += [f"{100 * sum(coding) / seconds:.1f} %", *(f"{rows / each / 1e9:.2f}" for each in coding)]
    return f"| {shape} | {codec} | {' | '.join(told)} |"


if __name__ == "__main__":
    main()

"""Which transform, quantizer and reference code what crosses the cut in the fewest bytes: an offline study.

    python benchmarks/frame_coding --data ../shared/data/e2e [--models tiny,smollm2] [--dumps FOLDER]

One process trains a model cut in two on all rows of a few E2E sources and records, at every visit, the activation and
the gradient at the cut (real positions, float32); with --dumps they are kept and reused. Schemes are then compared at
equal error. Bytes are ideal: the entropy of a packet's symbols, (K - 1) / 2 · log2 n bits and a byte for each table of
K symbols (Rissanen 1978), a byte a row for its step. Written to benchmarks/results/frame_coding.md and .json.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from dumps import BATCH, SEED, SETTINGS, Packet, dump
from gradients import gradient_figures
from intra_frames import channels, intra
from loop import LOOPS, fractions, run
from motion import global_motion
from predicted_frames import predicted
from rate import KAPPAS, TAUS
from tables import tables

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with E2E's train file")
    parser.add_argument("--models", default=",".join(SETTINGS))
    parser.add_argument("--dumps", type=Path, help="keep dumps here, and reuse the ones that are there")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.models.split(","):
            file = (options.dumps or Path(scratch)) / f"dump_{name}.pt"
            if not file.is_file():
                torch.save([vars(packet) for packet in dump(name, options.data)], file)
            packets = [Packet(**fields) for fields in torch.load(file)]
            found[name] = study(packets, SETTINGS[name][2])
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    lines = [
        f"E2E, all rows of few sources, batch {BATCH}, LoRA r 8, linear schedule, seed {SEED}; "
        + ", ".join(f"{key} {version}" for key, version in versions.items())
        + ". Ideal bytes, tables and a byte a row included."
    ]
    for name, figures in found.items():
        cut_layer, lr, samples, epochs = SETTINGS[name]
        lines += [
            "",
            *tables(f"{name}: {samples} samples, {epochs} epochs, lr {lr}, cut after {cut_layer} blocks", figures),
        ]
    text = "\n".join([*lines, ""])
    print(text)
    (RESULTS / "frame_coding.md").write_text(text)
    (RESULTS / "frame_coding.json").write_text(json.dumps({"seed": SEED, "versions": versions, "found": found}) + "\n")


def study(packets: list[Packet], samples: int) -> dict[str, Any]:
    copies = 40000 / samples
    grid = {
        name: {
            f"{tau} {kappa}": fractions(packets, run(packets, tau, kappa, LOOPS[name]), copies)
            for tau in TAUS
            for kappa in KAPPAS
        }
        for name in ("Hadamard", "KLT all")
    }
    loops = {
        name: {f"{tau}": fractions(packets, run(packets, tau, 0.7, scheme), copies) for tau in (0.05, 0.1)}
        for name, scheme in LOOPS.items()
    }
    return {
        "channels": channels(packets),
        "intra": intra(packets, copies),
        "predicted": {f"{tau}": predicted(packets, tau, 0.5, True) for tau in TAUS},
        "predicted by kappa": {f"0.05 {kappa}": predicted(packets, 0.05, kappa, False) for kappa in (0.3, 0.7)},
        "motion": global_motion(packets),
        "gradients": gradient_figures(packets),
        "grid": grid,
        "loops": loops,
    }


if __name__ == "__main__":
    main()

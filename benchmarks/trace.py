"""Where a step's time goes: torch.profiler traces of a client and its server, and what each part of a step takes.

    python benchmarks/trace.py [--shape tiny] [--name NAME] [--folder docs/traces] [key=value ...]

Trains with one client, a server and an aggregator on this machine, on texts that fill every batch (8 x 128 tokens,
codec none), and watches two steps of client and server: every operator, and the parts that the roles are made of as
spans. FOLDER gets NAME_client.json.gz and NAME_server.json.gz, for https://ui.perfetto.dev. Printed are milliseconds a
step in each span, spans inside of it counted in it. A profiler slows a step down: how long one lasts is limit.py's to
say.
"""

import argparse
import gzip
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from full_batches import SHAPES, full_texts, model_folder
from step_marks import marked_run
from trace_spans import FIRST, FOLDER, PREFIX, ROLES, STEPS

ROOT = Path(__file__).resolve().parent.parent
BATCH, TOKENS = 8, 128
OF_THIS_MACHINE = "traceName", "host_name"  # a temporary file, and a name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="tiny", choices=SHAPES)
    parser.add_argument("--name", help="of the files; default: the shape")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "traces")
    parser.add_argument("more", nargs="*", metavar="key=value", help="settings of the run")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settings = [
            *full_texts(folder / "texts", BATCH * (FIRST + STEPS + 2), TOKENS),
            f"model.name={model_folder(options.shape, folder)}",
            *("model.cut_layer=2", "codec=none", "roles.client_ranks=1", "fed.clients=1", "fed.every=1000"),
            *(f"train.batch_size={BATCH}", "train.epochs=1"),
        ]
        extension = Path(__file__).resolve().parent / "trace_spans.py"
        marked_run([*settings, *options.more], folder, {FOLDER: str(folder)}, [extension])
        for role in ROLES.values():
            trace = json.loads((folder / f"{role}.json").read_bytes())
            for name in OF_THIS_MACHINE:
                trace.pop(name, None)
            target = options.folder / f"{options.name or options.shape}_{role}.json.gz"
            target.write_bytes(gzip.compress(json.dumps(trace).encode(), mtime=0))
            print(f"{role}, ms a step", *told(trace), "", sep="\n")


def told(trace: dict[str, Any]) -> Iterator[str]:
    """Every span's milliseconds a step, and how often it is entered in one."""
    spans: dict[str, list[float]] = defaultdict(list)
    for event in trace["traceEvents"]:
        if event.get("ph") == "X" and event["name"].startswith(PREFIX):
            spans[event["name"].removeprefix(PREFIX)].append(event["dur"] / 1e3)
    for name, durations in sorted(spans.items(), key=lambda item: -sum(item[1])):
        yield f"  {name:22} {sum(durations) / STEPS:8.2f}   x {len(durations) / STEPS:g}"


if __name__ == "__main__":
    main()

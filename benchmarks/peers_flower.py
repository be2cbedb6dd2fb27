"""Flower in benchmarks/peers.py: a SuperLink and three SuperNodes, each a party, as its guide starts them."""

import json
import os
import time
from pathlib import Path

from peers_job import CLIENTS, Job
from peers_outcome import LIMIT, Outcome, lines_of_code, outcome, read_marks
from peers_parties import Parties

APP = Path(__file__).resolve().parent / "peers" / "flower_app"
PORT = 8000


def configuration(job: Job, marks: Path) -> dict[str, object]:
    """Values of [tool.flwr.app.config], whose lines the app's pyproject.toml has already."""
    return {
        "model": str(job.model),
        "tokens": str(job.tokens),
        "marks": str(marks),
        "clients": CLIENTS,
        "rounds": job.epochs,
        "batch": job.batch,
        "rank": job.rank,
        "alpha": job.alpha,
        "lr": job.lr,
    }


def connection(address: str) -> str:
    """The Flower configuration of the one who starts the run."""
    return f'[superlink]\ndefault = "peers"\n[superlink.peers]\naddress = "{address}"\ninsecure = true\n'


def lines() -> int:
    """App, its pyproject.toml, and the configuration of the connection."""
    app = [path for path in sorted(APP.rglob("*")) if path.suffix in (".py", ".toml")]
    return lines_of_code(app) + len(connection("").splitlines())


def check(python: Path) -> None:
    """Exit with one line where Flower's programs are not beside this interpreter."""
    if not (python.absolute().parent / "flower-superlink").is_file():
        raise SystemExit(f"error: --flower-python {python}: no flower-superlink beside it; pip install flwr there")


def run(job: Job, folder: Path, python: Path) -> Outcome:
    """`python` is the interpreter of an environment with flwr, torch, transformers and peft."""
    programs, marks = python.absolute().parent, folder / "marks.jsonl"
    clients = [f"client{client}" for client in range(CLIENTS)]
    with Parties(["server", *clients], folder / "logs") as parties:
        link = f"{parties.address('server')}:{PORT}"
        path = {"PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
        homes = {name: folder / "home" / name for name in ("user", *parties.names)}
        for home in homes.values():
            home.mkdir(parents=True)
        (homes["user"] / "config.toml").write_text(connection(link))

        def start(party: str, home: str, *command: str) -> int:
            return parties.start(party, command, path | {"FLWR_HOME": str(homes[home])}, cwd=folder)

        started = time.monotonic()
        plain = ("--insecure", "--disable-runtime-dependency-installation")
        superlink = start("server", "server", "flower-superlink", *plain, "--host", "0.0.0.0", "--port", str(PORT))
        for client, name in enumerate(clients):
            node = ("--superlink", link, "--node-config", f"client={client}")
            start(name, name, "flower-supernode", "--insecure", *node)
        parties.wait_for_port(superlink, PORT, LIMIT)
        values = " ".join(f"{key}={json.dumps(value)}" for key, value in configuration(job, marks).items())
        number = start("server", "user", "flwr", "run", str(APP), "peers", "--stream", "--run-config", values)
        parties.wait([number], LIMIT)
        return outcome(parties, time.monotonic() - started, read_marks(marks, job.epoch_tokens))

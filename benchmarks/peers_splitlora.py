"""SplitLoRA's own training program in benchmarks/peers.py, from a user's checkout, which is not changed.

One process holds the server and three clients, a constant of the program; activations are passed by reference.
"""

import re
import time
from pathlib import Path

import torch
import transformers
from peers_job import CLIENTS, SEED, Job
from peers_outcome import LIMIT, Course, Outcome, outcome
from peers_parties import Parties

SHAPE = {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257}  # gpt2.sm, its smallest
AVERAGED = 100  # batches from one averaging to the next, a constant of the program
SAVED = "trained_models/GPT2_S/e2e"  # where it saves; the folder must be there
STEP = re.compile(r"\| epoch +(\d+) step +(\d+) .*ms/batch +([\d.]+)")
HELD_OUT = re.compile(r"^average loss ([\d.]+)", re.MULTILINE)


def options(job: Job, checkpoint: Path) -> list[str]:
    """The README's options with the job's figures; what it does not name is at its default."""
    batches = CLIENTS * job.steps * job.epochs
    values = {
        **{f"train_data{client}": job.tokens / f"{client}.jsonl" for client in range(CLIENTS)},
        "valid_data": job.tokens / "valid.jsonl",
        "train_batch_size": job.batch,
        "grad_acc": 1,
        "valid_batch_size": job.batch,
        "seq_len": job.longest,
        "model_card": "gpt2.sm",
        "init_checkpoint": checkpoint,
        "platform": "local",
        "clip": 0.0,
        "lr": job.lr,
        "weight_decay": 0.0,
        "adam_beta2": 0.999,
        "adam_epislon": 1e-8,
        "scheduler": "constant",
        "max_epoch": job.epochs,
        "log_interval": CLIENTS * job.steps,
        "eval_interval": batches,
        "save_interval": 10 * batches,
        "lora_dim": job.rank,
        "lora_alpha": job.alpha,
        "lora_dropout": 0.0,
        "work_dir": "work",
        "random_seed": SEED,
    }
    return ["--correct_bias", *(f"--{name}={value}" for name, value in values.items())]


def unfit(job: Job) -> str | None:
    """Why the program cannot have this model."""
    wrong = [f"{name} {getattr(job.shape, name)}" for name, size in SHAPE.items() if getattr(job.shape, name) != size]
    return f"its smallest model is GPT-2 small, this one has {', '.join(wrong)}" if wrong else None


def program(checkout: Path) -> Path:
    """Its training program. Exits with one line where it is not there."""
    found = checkout.resolve() / "SplitLoRA" / "examples" / "src" / "gpt2_ft_sfl.py"
    if not found.is_file():
        raise SystemExit(f"error: --splitlora {checkout}: {found} is not there; name a checkout of FDU-INC/Split_LoRA")
    return found


def run(job: Job, folder: Path, checkout: Path, python: Path, shim: Path | None) -> Outcome:
    (folder / SAVED).mkdir(parents=True)
    checkpoint = folder / "gpt2-pytorch_model.bin"
    torch.save(transformers.GPT2LMHeadModel.from_pretrained(job.model).transformer.state_dict(), checkpoint)
    paths = [*([shim.resolve()] if shim else []), checkout.resolve() / "SplitLoRA"]  # its loralib
    with Parties(["all"], folder / "logs") as parties:
        environment = {
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29500",
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "2",  # the cores of the others' processes together
            "PYTHONPATH": ":".join(map(str, paths)),
        }
        started = time.monotonic()
        command = [str(python), "-u", str(program(checkout)), *options(job, checkpoint)]
        number = parties.start("all", command, environment, cwd=folder)
        parties.wait([number], LIMIT)
        course = read_log(parties.log(number).read_text(), job.steps, job.epoch_tokens)
        return outcome(parties, time.monotonic() - started, course)


def read_log(text: str, steps: int, epoch_tokens: int) -> Course:
    """What its log says; no loss before clients have been averaged once. ValueError without a later epoch's line."""
    rows = [(int(epoch), int(batch), float(each)) for epoch, batch, each in STEP.findall(text)]
    late = [each * CLIENTS * steps / 1000 for epoch, _, each in rows if epoch > 1]
    if not late:
        raise ValueError(f"no line of a second epoch, but {len(rows)} of the first")
    losses, averaged = HELD_OUT.findall(text), rows[-1][1] >= AVERAGED
    return Course(len(late) * epoch_tokens / sum(late), float(losses[-1]) if losses and averaged else None)

"""The `splitcom` command."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from splitcom_dist.analysis.command import add_arguments as add_analyze_arguments
from splitcom_dist.analysis.command import analyze
from splitcom_dist.checkpoints.signals import INTERRUPTED
from splitcom_dist.config.files import files_and_overrides, load_config, preset_folder
from splitcom_dist.config.schema import Config
from splitcom_dist.doctor.command import add_arguments as add_doctor_arguments
from splitcom_dist.doctor.command import doctor
from splitcom_dist.errors import SplitcomError, UserError
from splitcom_dist.evaluation.command import add_arguments, evaluate
from splitcom_dist.layout import layout_for
from splitcom_dist.openmp import choose_spins
from splitcom_dist.partition.command import add_arguments as add_partition_arguments
from splitcom_dist.partition.command import partition
from splitcom_dist.place import Place, find_place
from splitcom_dist.planning.command import add_arguments as add_plan_arguments
from splitcom_dist.planning.command import plan
from splitcom_dist.profiling.command import add_arguments as add_profile_arguments
from splitcom_dist.profiling.command import profile
from splitcom_dist.replay.command import add_arguments as add_replay_arguments
from splitcom_dist.replay.command import replay
from splitcom_dist.telemetry.repair_command import add_arguments as add_repair_arguments
from splitcom_dist.telemetry.repair_command import log_repair
from splitcom_dist.watch.command import add_arguments as add_watch_arguments
from splitcom_dist.watch.command import watch

# Whoever asks CUDA for its devices in the process that forks the ranks takes them from those; NVML can be asked.
ASKS_NVML = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}

# A launcher ends all ranks when the first one leaves; the one that tells why must not be cut off by the others.
PRECEDENCE_SECONDS = 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit code 2 and one line on standard error for a mistake of the user's."""
    os.environ.update(ASKS_NVML | os.environ)
    parser = _parser()
    options, more = parser.parse_known_args(arguments)
    if unknown := [text for text in more if text.startswith("-")]:
        parser.error(f"unknown option {unknown[0]}")
    if options.command in ("evaluate", "doctor", "analyze", "log-repair", "watch"):
        if more:
            parser.error(f"unexpected argument {more[0]}")
    else:
        options.settings += more  # overrides may stand behind options too
    place = None
    try:
        if options.command == "doctor":
            return doctor(options)
        if options.command == "log-repair":
            return log_repair(options)
        if options.command == "watch":
            return watch(options)
        if options.command == "analyze":
            return analyze(options)
        if options.command == "partition":
            return partition(_config(options), options.plot)
        if options.command == "plan":
            return plan(options)
        if options.command == "replay":
            return replay(options)
        place = find_place(os.environ)
        if options.command == "profile":
            return profile(options, place)
        return evaluate(options) if options.command == "evaluate" else _train(options, place)
    except SplitcomError as error:
        if place is None or place.rank == 0:  # every rank meets the same mistake
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            time.sleep(PRECEDENCE_SECONDS)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _train(options: argparse.Namespace, place: Place | None) -> int:
    config = _config(options)
    if place is not None:
        layout_for(config, place.world_size)
    # Imported here: torch and transformers take seconds, a misspelt key should not.
    if options.dry_run:
        from splitcom_dist.dry_run import describe

        if place is None or place.rank == 0:
            describe(config)
        return 0
    if options.command == "train" and (options.submit or options.sbatch):
        if not options.submit:
            raise UserError("--sbatch: options of sbatch are of use with --submit only")
        if place is not None:
            raise UserError(f"--submit: this is a rank already, started by {place.launcher}")
        from splitcom_dist.submit import submit

        return submit(config, options.settings, options.out, options.sbatch)
    choose_spins(config.roles, place)  # not of who submits: a job begins with the environment it has
    if place is None:
        from splitcom_dist.launcher import launch

        return launch(config, options.out)
    from splitcom_dist.ending import end_process
    from splitcom_dist.runner import run_rank

    end_process(run_rank(config, place, options.out))


def _config(options: argparse.Namespace) -> Config:
    files, overrides = files_and_overrides(options.settings)
    if options.command == "demo":
        files.insert(0, str(preset_folder() / "experiment" / "demo.yaml"))
    return load_config(files, overrides)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="splitcom", description="Split federated fine-tuning of language models.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, summary in (
        ("demo", "train the embedded model on this machine: 3 clients, 1 server, 1 aggregator"),
        ("train", "train; one rank under torchrun, srun or mpirun, else all ranks on this machine"),
    ):
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument(
            "settings",
            nargs="*",
            metavar="CONFIG.yaml|key=value",
            help="files are merged left to right, then overrides; codec=NAME and the like take a preset",
        )
        command.add_argument("--out", type=Path, help="run directory (default: runs/<data>-<model>-<codec>-<time>)")
        command.add_argument(
            "--dry-run",
            action="store_true",
            help="print configuration, roles, memory and bytes; do not train",
        )
        if name == "train":
            command.add_argument("--submit", action="store_true", help="hand it to Slurm instead (slurm/train.sbatch)")
            command.add_argument(
                "--sbatch",
                default="",
                metavar='"key=value ..."',
                help='with --submit: options of sbatch, such as "partition=gpu nodes=2 time=2:00:00"',
            )
    summary = "perplexity and generation scores of a finished run, or of any PEFT adapter"
    add_arguments(commands.add_parser("evaluate", help=summary, description=summary))
    summary = "what each client would train on: its samples, tokens, lengths and labels"
    add_partition_arguments(commands.add_parser("partition", help=summary, description=summary))
    summary = "cut layer, LoRA rank and codec with which a run on a profiled cluster ends soonest"
    add_plan_arguments(commands.add_parser("plan", help=summary, description=summary))
    summary = "what a finished run would have sent with other thresholds or controllers, from its logs alone"
    add_replay_arguments(commands.add_parser("replay", help=summary, description=summary))
    summary = "how fast the ranks of a run compute its batch, and their links: what `plan` plans with"
    add_profile_arguments(commands.add_parser("profile", help=summary, description=summary))
    summary = "a report of one run or of several, from their logs: quality, bytes, similarity, thresholds, time"
    add_analyze_arguments(commands.add_parser("analyze", help=summary, description=summary))
    summary = "what this machine has, or, under a launcher, every rank's, and how fast they reach each other"
    add_doctor_arguments(commands.add_parser("doctor", help=summary, description=summary))
    summary = "a run in the terminal while it goes on; also curves for TensorBoard, Weights & Biases and MLflow"
    add_watch_arguments(commands.add_parser("watch", help=summary, description=summary))
    summary = "fresh logs from what can be read of logs that were cut off, damaged or never closed"
    add_repair_arguments(commands.add_parser("log-repair", help=summary, description=summary))
    return parser

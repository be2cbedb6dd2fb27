"""What many tests need: small random models of every family, and whole runs as real processes."""

import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
import transformers

from splitcom_dist.cli import main
from splitcom_dist.data.synthetic import restaurants
from splitcom_dist.models.tiny.tokenizer import train_tokenizer
from splitcom_dist.plan.cluster import CodecSeconds, EdgeSpeed, Line, Profile, RankSpeed

hypothesis.settings.register_profile("patient", deadline=None)  # a loaded machine is no failure
hypothesis.settings.load_profile("patient")
torch.set_num_threads(1)  # a process that has used OpenMP threads cannot be forked safely

SIZES = {"num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 800}
LLAMA_SIZES = SIZES | {"hidden_size": 32, "intermediate_size": 64, "num_key_value_heads": 2}
CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: transformers.GPT2Config(bos_token_id=0, eos_token_id=0, n_embd=32, n_positions=128, **SIZES),
    "llama": lambda: transformers.LlamaConfig(**LLAMA_SIZES, tie_word_embeddings=False),
    "llama_tied": lambda: transformers.LlamaConfig(**LLAMA_SIZES, tie_word_embeddings=True),
    "qwen2": lambda: transformers.Qwen2Config(**LLAMA_SIZES),
    "mistral": lambda: transformers.MistralConfig(**LLAMA_SIZES),
    "opt": lambda: transformers.OPTConfig(
        hidden_size=32, ffn_dim=64, word_embed_proj_dim=16, max_position_embeddings=128, **SIZES
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(hidden_size=32, intermediate_size=64, **SIZES),
}


def byte_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE that knows any text, made without a download."""
    return train_tokenizer((text for pair in restaurants("train", 100, 1) for text in pair), SIZES["vocab_size"])


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model with tokenizer of every supported family, as `from_pretrained` folders."""
    folders = {}
    for family, make in CONFIGS.items():
        folder = tmp_path_factory.mktemp(family)
        torch.manual_seed(0)
        config = make()
        config.bos_token_id = config.eos_token_id = config.pad_token_id = 0
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # freshly initialised models are too near zero to tell errors
            parameter.data.mul_(3.0)
        model.save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        folders[family] = folder
    return folders


class Clock:
    """Stands in for `time`: only sleep takes time, so that what a client has computed does not depend on the load.

    Sleeping is work too, as long as no core is waited for.
    """

    now = 0.0
    waited = 0.0

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.now - self.waited

    def wait_for_a_core(self, seconds: float) -> None:
        self.now += seconds
        self.waited += seconds

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        time.sleep(seconds)


def pytest_configure(config: pytest.Config) -> None:
    """Without `-m gpu` no test, nor what it starts, sees a GPU: what it expects to the bit is the CPU's."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """With `-m gpu`: what was verified on which devices, and what was not."""
    if config.option.markexpr != "gpu":
        return
    terminalreporter.section("on GPUs")
    count = torch.cuda.device_count()
    seen = [torch.cuda.get_device_name(index) for index in range(count)]
    terminalreporter.write_line(f"torch {torch.__version__}; devices: {', '.join(seen) or 'none'}")
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
            reason = f" ({report.longrepr[2].removeprefix('Skipped: ')})" if outcome == "skipped" else ""
            terminalreporter.write_line(f"{outcome:8}{name}{reason}")


@dataclass(frozen=True)
class Outcome:
    code: int | None  # None: still running when the time was over
    stdout: str
    stderr: str


def run_command(
    arguments: list[str],
    timeout: float = 120,
    environment: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Outcome:
    """Run `splitcom ARGUMENTS` in a process forked from this one: everything is imported already.

    `before` runs in that process first; what it patches, every rank of the run has.
    """
    with tempfile.TemporaryDirectory(prefix="splitcom-test-") as folder:
        process = multiprocessing.get_context("fork").Process(
            target=_command, args=(arguments, Path(folder), environment or {}, before)
        )
        process.start()
        process.join(timeout)
        code = process.exitcode
        if code is None:
            process.terminate()
            process.join(timeout=10)
            process.kill()  # its ranks go with it
            process.join()
        return Outcome(code, *((Path(folder) / name).read_text() for name in ("stdout", "stderr")))


def _command(
    arguments: list[str], folder: Path, environment: dict[str, str], before: Callable[[], None] | None
) -> None:
    os.environ.update(environment)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    logging.getLogger().handlers.clear()  # pytest's own would hide what a user would see
    os.sched_getaffinity = lambda _: {0}  # another test runs beside this one: ranks with a thread a core hinder it
    if before is not None:
        before()
    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


PROFILE_LINE = Line(0.02, 0.01)


def make_profile(client_ranks: int = 1, model: str = "tiny", samples: int = 4) -> Profile:
    """What a cluster of one server might have measured."""
    codecs = {name: CodecSeconds(0.001, 0.0005) for name in ("none", "int8")}
    roles = ["client"] * client_ranks + ["server"]
    ranks = [
        RankSpeed(rank, role, PROFILE_LINE, PROFILE_LINE, Line(0.001, 0.001), codecs, 10**8)
        for rank, role in enumerate(roles)
    ]
    edges = [EdgeSpeed(rank, client_ranks, 1e6, 5e6, 0.01) for rank in range(client_ranks)]
    return Profile(model, "float32", samples, 60, 200, 100, ranks, edges)

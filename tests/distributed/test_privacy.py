"""In the U-shape no token id and no label reaches the server: its received bytes and its live tensors are searched.

The same watch over the standard shape, where labels do cross, must find them: else it would prove nothing.
"""

import gc
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import run_command

from splitcom_dist.codec.header import SECTIONS
from splitcom_dist.comm.gloo_p2p import GlooPair
from splitcom_dist.comm.tcp_p2p import TcpPair
from splitcom_dist.data.tokens import Sample
from splitcom_dist.models.sources import ModelSource
from splitcom_dist.roles import share, u_server
from splitcom_dist.roles.server import ServerRole
from splitcom_dist.world import World

RARE = range(700, 800)  # token ids; no sample id, length, count or step of this run comes near
SAMPLES, LENGTH = 6, 24


def samples_of(client: int) -> list[Sample]:
    generator = np.random.default_rng(client)
    return [
        Sample(number, generator.choice(RARE, LENGTH, replace=False).astype(np.int32), target_start=8)
        for number in range(SAMPLES)
    ]


SECRETS = {
    window.astype(dtype).tobytes()
    for client in range(2)
    for sample in samples_of(client)
    for window in np.lib.stride_tricks.sliding_window_view(sample.tokens, 3)
    for dtype in ("<u2", ">u2", "<u4", "<i8", "<f4")
}


def tokens_in(tensor: torch.Tensor) -> bool:
    """Whether any element is a token id, or any three in a row are there in the tensor's bytes."""
    if tensor.is_meta or not tensor.numel() or tensor.dtype == torch.bool:
        return False
    values = tensor.detach().double()
    is_id = torch.isin(values, torch.tensor(RARE, dtype=torch.float64))
    if tensor.dtype != torch.uint8 and bool(is_id.any()):
        return True
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return tensor.dtype == torch.uint8 and any(secret in raw for secret in SECRETS)


def live_tensors() -> list[torch.Tensor]:
    return [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]


def watch(findings: Path) -> Callable[[], None]:
    """What every rank runs first: clients get the rare samples, the server is watched."""

    def install() -> None:
        share.training_shards = lambda config, tokenizer, clients: {client: samples_of(client) for client in clients}  # type: ignore[attr-defined]
        received: list[bytes] = []
        found = {"received_bytes": 0, "tensors": 0, "steps": 0, "on_the_wire": 0, "in_tensors": 0, "tokenizers": 0}
        this_rank: list[int] = []
        # of tests before this one, from which this process was forked; held, so that no new one gets the place of one
        inherited = {id(each): each for each in live_tensors()}
        wait_for, total = World.wait_for, World.sum_over_ranks
        tokenizer, run, serve = ModelSource.tokenizer, ServerRole.run, ServerRole.step

        class Recorded:
            def __init__(self, pending: Any, buffer: torch.Tensor) -> None:
                self.pending, self.buffer = pending, buffer

            def wait(self) -> None:
                self.pending.wait()
                received.append(self.buffer.numpy().tobytes())

        def record(kind: type[GlooPair] | type[TcpPair]) -> None:
            post: Callable[[Any, torch.Tensor], Any] = kind.post_receive
            kind.post_receive = lambda self, buffer: Recorded(post(self, buffer), buffer)  # type: ignore[assignment]

        def heard(self: World, *arguments: Any) -> str:
            text = wait_for(self, *arguments)
            received.append(text.encode())
            return text

        def summed(self: World, *arguments: Any, **options: Any) -> torch.Tensor:
            values = total(self, *arguments, **options)
            received.append(values.numpy().tobytes())
            return values

        def counted(self: ModelSource) -> Any:
            found["tokenizers"] += 1
            return tokenizer(self)

        def stepped(self: ServerRole, step: int) -> None:
            serve(self, step)
            raw = b"|".join(received)
            found["received_bytes"] += len(raw)
            found["on_the_wire"] += sum(secret in raw for secret in SECRETS)
            received.clear()
            tensors = [each for each in live_tensors() if id(each) not in inherited]
            found["tensors"] += len(tensors)
            found["in_tensors"] += sum(map(tokens_in, tensors))
            found["steps"] += 1

        def ran(self: ServerRole) -> None:
            this_rank.append(self.context.world.rank)
            run(self)
            findings.write_text(json.dumps(found))

        record(GlooPair)
        record(TcpPair)
        World.wait_for, World.sum_over_ranks = heard, summed  # type: ignore[method-assign,assignment]
        ModelSource.tokenizer = counted  # type: ignore[method-assign]
        ServerRole.run, ServerRole.step = ran, stepped  # type: ignore[method-assign]

    return install


def run(model: Path, folder: Path, tail_layers: int, codec: str) -> dict[str, int]:
    settings = {
        "model.name": model,
        "model.cut_layer": 1,
        "model.tail_layers": tail_layers,
        "data.max_length": LENGTH,
        "data.validation_samples": 2,
        "data.overlong": "truncate",
        "roles.client_ranks": 2,
        "fed.clients": 2,
        "fed.every": 2,
        "train.epochs": 2,
        "train.batch_size": 3,
        "telemetry.progress": False,
        "codec": codec,
    }
    arguments = [f"{key}={value}" for key, value in settings.items()]
    outcome = run_command(["train", *arguments, "--out", str(folder / "run")], before=watch(folder / "findings.json"))
    assert outcome.code == 0, outcome.stderr
    found: dict[str, int] = json.loads((folder / "findings.json").read_text())
    assert found["steps"] == 4 and found["received_bytes"] > 50_000 and found["tensors"] > 100, "it did watch"
    assert found["tokenizers"] == 0, "the server makes no tokenizer"
    return found


@pytest.mark.parametrize(
    ("family", "codec"),
    [
        pytest.param(family, codec, marks=[] if (family, codec) == ("llama", "splitcom_all_int8") else pytest.mark.long)
        for family in ("gpt2", "llama")
        for codec in ("none", "splitcom_all_int8", "video")
    ],
)
def test_no_token_and_no_label_reaches_the_server_of_the_u_shape(
    family: str, codec: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    found = run(model_folders[family], tmp_path, 1, codec)
    assert (found["on_the_wire"], found["in_tensors"]) == (0, 0)


def test_the_same_watch_finds_the_labels_of_the_standard_shape(model_folders: dict[str, Path], tmp_path: Path) -> None:
    found = run(model_folders["gpt2"], tmp_path, 0, "none")
    assert found["on_the_wire"] > 50 and found["in_tensors"] > 10


def test_nothing_in_the_server_of_the_u_shape_can_take_a_label() -> None:
    source = inspect.getsource(u_server)
    code = source.split('"""', 2)[2]
    assert "label" not in code.lower() and "token_ids" not in code and "input_ids" not in code
    parameters = {
        name
        for _, function in inspect.getmembers(u_server.UServerRole, inspect.isfunction)
        for name in inspect.signature(function).parameters
    }
    assert not {name for name in parameters if "label" in name or "target" in name or "sample" in name}


def test_a_packet_with_labels_is_refused_in_the_u_shape(model_folders: dict[str, Path]) -> None:
    """The limits of the opening packet leave no byte for labels."""
    from types import SimpleNamespace

    from splitcom_dist.codec.ends import make_decoder
    from splitcom_dist.config.schema import Config, LinkCodecConfig, ModelConfig
    from splitcom_dist.models.sources import find_model
    from splitcom_dist.roles.context import Context

    source = find_model(str(model_folders["gpt2"]))
    for tail_layers, allowed in ((1, False), (0, True)):
        config = Config(model=ModelConfig(tail_layers=tail_layers))
        stand_in = SimpleNamespace()
        context = Context(config, *[stand_in] * 2, source, *[stand_in] * 4)  # type: ignore[arg-type, call-arg]
        decoder = make_decoder(LinkCodecConfig(), context.width, torch.float32)
        expected = context.expected("up_activation", decoder, "x", 0, 0, None)
        limits = dict(zip(SECTIONS, expected.section_bytes, strict=True))
        assert (limits["labels"] > 0) is allowed

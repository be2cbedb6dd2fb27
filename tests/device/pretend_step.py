"""What test_pretend_device.py runs in a process of its own: steps of a client and its server on a pretended device.

    python pretend_step.py FAMILY:CODEC:TRANSPORT:TAIL_LAYERS ...

Two visits to the same batch by the code of the roles, both on one device, over queues. Prints one line of JSON: by
case, for each visit, by phase, where the host waited for the device and where it gave it something.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import numpy as np
import torch
import transformers
from conftest import CONFIGS
from pretend_device import PretendDevice, register
from torch import Tensor

from splitcom_dist.aggregate.ranks import Ranks
from splitcom_dist.attendance import Mode
from splitcom_dist.codec.labels import LabelCache
from splitcom_dist.codec.prefix import KeyBook
from splitcom_dist.comm.link import Edge
from splitcom_dist.config.files import load_config
from splitcom_dist.config.implied import names_samples
from splitcom_dist.config.schema import Config
from splitcom_dist.cuts.layers import client_cuts
from splitcom_dist.data.batching import Batch, collate
from splitcom_dist.data.tokens import Sample
from splitcom_dist.layout import Layout
from splitcom_dist.models.lora import attach_lora, flatten, unflatten_into
from splitcom_dist.models.sources import find_model
from splitcom_dist.models.split import load_part, parts_of, tie_tail
from splitcom_dist.presence.service import Service
from splitcom_dist.roles import build
from splitcom_dist.roles.client import ClientRole
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.mean_share import MeanShare
from splitcom_dist.roles.pipeline import MicroBatch, Place
from splitcom_dist.roles.roster import Roster
from splitcom_dist.roles.served_client import ServedClient
from splitcom_dist.roles.share import Share
from splitcom_dist.roles.standard_server import StandardServerRole
from splitcom_dist.roles.u_client import UClientRole
from splitcom_dist.roles.u_server import UServerRole
from splitcom_dist.run_directory import RunDirectory
from splitcom_dist.telemetry.progress import make_progress

WHOLE = Place(0, first=True, behind=0)
SAMPLES = [Sample(3, np.arange(1, 10), 4), Sample(5, np.arange(2, 8), 3), Sample(9, np.arange(3, 15), 5)]


class Queued:
    """Either channel between the two: what is put in at one end comes out at the other."""

    peer = 1

    def __init__(self, out: "SimpleQueue[Tensor]", into: "SimpleQueue[Tensor]", device: torch.device) -> None:
        self.out, self.into, self.device = out, into, device

    def send(self, *messages: Tensor) -> None:
        for message in messages:
            assert message.device == self.device
            self.out.put(message.clone())

    def post_send(self, message: Tensor) -> Any:
        raise AssertionError

    def post_receive(self, buffer: Tensor) -> Any:
        assert buffer.device == self.device

        def wait() -> None:
            message = self.into.get_nowait()
            buffer[: len(message)] = message

        return SimpleNamespace(wait=wait)


def edges(device: torch.device) -> tuple[Edge, Edge]:
    """The client's end and the server's."""
    pairs = []
    for where in (torch.device("cpu"), device):
        there: SimpleQueue[Tensor] = SimpleQueue()
        back: SimpleQueue[Tensor] = SimpleQueue()
        pairs.append((Queued(there, back, where), Queued(back, there, where)))
    (client, server), (client_device, server_device) = pairs
    return Edge(client, "the server", client_device), Edge(server, "the client", server_device)


def load(config: Config, context: Context, pretend: PretendDevice) -> Share:
    cuts = parts_of(config.model.cut_layer, context.source.block_count, config.model.tail_layers)
    models = {name: load_part(context.source, cut, torch.float32) for name, cut in cuts.items() if name != "whole"}
    if "tail" in models:
        tie_tail(models["head"], models["tail"])
    for model in models.values():
        attach_lora(model, config.lora, 0)
    pretend.holding(torch.nn.ModuleList(list(models.values())))
    return Share(models, cuts)


def visits(config: Config, context: Context, pretend: PretendDevice) -> list[dict[str, dict[str, list[str]]]]:
    share, (up, down) = load(config, context, pretend), edges(pretend.device)
    directory = RunDirectory(Path(tempfile.mkdtemp()))
    tail = "tail" in share.parts
    trained = [p for part in ("head", *(["tail"] if tail else [])) for p in share.adapter(part)]
    client = build._logical_client(context, 0, SAMPLES, trained, up, directory)
    outgoing, incoming = build._flows(context, 0, down, directory, sends_up=False)
    book = KeyBook() if names_samples(config) else None
    served = ServedClient(0, down, incoming, outgoing, book, None if tail else LabelCache(context.source.vocabulary))
    roster = cast(Roster[Any], SimpleNamespace())
    head, body, ranks = share.parts["head"], share.parts["body"], Ranks(None, [p.shape for p in trained])
    mean = MeanShare(context, roster, flatten(trained), ranks, None)
    role = (
        UClientRole(context, head, share.parts["tail"], up, roster, mean, {})
        if tail
        else ClientRole(context, head, up, roster, mean, {})
    )
    kind = UServerRole if tail else StandardServerRole
    service = cast(Service, SimpleNamespace(tolerating=lambda _: nullcontext()))
    server = kind(context, body, share.adapter("body"), roster, service, make_progress(False))
    noted = dict[str, dict[str, list[str]]]()

    def phase(name: str, act: Callable[[], Any]) -> Any:
        pretend.waits.clear()
        pretend.uploads.clear()
        result = act()
        noted[name] = {"waits": list(pretend.waits), "uploads": list(pretend.uploads)}
        return result

    def middle_of_u_shape(batch: Batch, step: int) -> None:
        assert isinstance(role, UClientRole) and isinstance(server, UServerRole)
        passage = phase("body", lambda: server.forward(served, WHOLE, step))
        down_activation, up_gradient = client.incoming["down_activation"], client.outgoing["up_gradient"]
        packet = down_activation.receive(step, passage.visit)
        output = phase("down_activation", lambda: down_activation.decode(packet))
        _, slope = phase("tail", lambda: role.forward_backward(output, batch))
        digest = packet.header.answer_digest
        phase("up_gradient", lambda: up_gradient.send(step, packet.visit, slope, peer_digest=digest, targets=9))
        phase("body backward", lambda: server.backward(passage, step))

    def visit_once(step: int) -> dict[str, dict[str, list[str]]]:
        noted.clear()
        client.enter()
        batch = phase("batch", lambda: collate(SAMPLES, context.device))
        visit, answer = client.visit(SAMPLES), "down_activation" if tail else "down_gradient"
        activation = phase("head", lambda: role.forward_head(client, batch, visit, step))
        whole = MicroBatch(SAMPLES, batch, WHOLE, visit, activation)
        phase("up", lambda: role.send_activation(client, whole, answer, step))
        if isinstance(server, StandardServerRole):
            phase("body", lambda: server.serve_one(served, WHOLE, step))
        else:
            middle_of_u_shape(batch, step)
        last = client.incoming["down_gradient"]
        gradient = phase("down", lambda: last.decode(last.receive(step, visit)))
        phase("backward", lambda: activation.backward(gradient))
        phase("client step", lambda: client.step(9))
        phase("server step", server.optimizer.step)
        mean = phase("averaging", lambda: flatten(client.adapter))
        phase("mean back", lambda: unflatten_into(mean, client.adapter))
        assert all(parameter.device == pretend.device for parameter in [*trained, *server.parameters])
        return dict(noted)

    return [visit_once(step) for step in range(2)]


def play(case: str, device: torch.device) -> list[dict[str, dict[str, list[str]]]]:
    family, codec, transport, tail_layers = case.split(":")
    folder = tempfile.mkdtemp()
    transformers.AutoModelForCausalLM.from_config(CONFIGS[family]()).save_pretrained(folder)
    config = load_config(
        [], [f"model.name={folder}", f"codec={codec}", f"transport={transport}", f"model.tail_layers={tail_layers}"]
    )
    schedule = SimpleNamespace(total_steps=10, mode=lambda _: Mode.TRAIN, epoch_of=lambda _: 0, participation=1.0)
    log, ledger, world = MagicMock(), MagicMock(), MagicMock(layout=Layout(1, 1, 1), comes_back=False)
    world.groups.shards = None
    source = find_model(folder)
    cuts = client_cuts(config)
    context = Context(config, cast(Any, world), cast(Any, schedule), source, log, ledger, cast(Any, None), cuts, device)
    with PretendDevice(device) as pretend:
        return visits(config, context, pretend)


if __name__ == "__main__":
    torch.set_num_threads(1)
    pretended = register()
    print(json.dumps({case: play(case, pretended) for case in sys.argv[1:]}))

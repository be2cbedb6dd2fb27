"""A server rank: the deep blocks and the LM head; it never sees text, and labels only in the standard shape."""

import json
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from splitcom_dist.codec.codec import Decoder, Encoder
from splitcom_dist.codec.labels import LabelCache
from splitcom_dist.codec.ragged import target_rows, to_padded, to_ragged
from splitcom_dist.codec.wire import RESYNC, Header, parse_manifest
from splitcom_dist.comm.link import Edge
from splitcom_dist.comm.reduce import send_vector
from splitcom_dist.errors import UserError, WireError
from splitcom_dist.links import LINK_CODES
from splitcom_dist.models.lora import adapter_parameters, flatten
from splitcom_dist.models.split import forward_blocks
from splitcom_dist.roles.context import Context
from splitcom_dist.telemetry.progress import Progress
from splitcom_dist.telemetry.records import SERVER, record_event, record_training
from splitcom_dist.training import AdapterOptimizer


@dataclass(frozen=True)
class ServedClient:
    """What a server keeps of one logical client: its ends of the client's links, and the labels it has had."""

    edge: Edge
    decoder: Decoder
    encoder: Encoder
    labels: LabelCache


@dataclass(frozen=True)
class Activation:
    """One client's batch as it arrived: rows (T, d), lengths (B,), target ids a sample."""

    rows: Tensor
    samples: list[int]
    lengths: Tensor
    targets: list[Tensor]


class ServerRole:
    """Blocks cut_layer.. and the LM head; `clients` are the logical clients it serves."""

    def __init__(
        self,
        context: Context,
        model: PreTrainedModel,
        clients: dict[int, ServedClient],
        progress: Progress,
    ) -> None:
        self.context = context
        self.model = model
        self.clients = clients
        self.progress = progress
        self.parameters = list(adapter_parameters(model).values())
        self.optimizer = AdapterOptimizer(self.parameters, context.config.train, context.schedule.total_steps)

    def run(self) -> None:
        schedule, world = self.context.schedule, self.context.world
        self.progress.start(schedule.total_steps, schedule.epochs)
        try:
            self.take_verdict(-1)  # on the model before training
            for step in range(schedule.total_steps):
                self.step(step)
                if schedule.evaluates_after(step):
                    self.report(step)
                self.context.log.flush()
                world.beat()
        finally:
            self.progress.close()

    def step(self, step: int) -> None:
        """Serve every active client in turn, then step on their gradients weighted by target tokens."""
        started = time.perf_counter()
        turns = self.context.schedule.turns(step, self.context.world.rank)
        for client in turns:
            self.clients[client].edge.post()
        losses = [self.serve(self.clients[client], client, step) for client in turns]
        loss, tokens, targets, waited = (sum(column) for column in zip(*losses, strict=True))
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad /= targets  # until here it is the gradient of the summed loss
        lr = self.optimizer.lr
        self.optimizer.step()
        epoch = self.context.schedule.epoch_of(step)
        record_training(
            self.context.log,
            step,
            epoch,
            SERVER,
            loss=loss / targets,
            tokens=int(tokens),
            targets=int(targets),
            lr=lr,
            seconds=time.perf_counter() - started - waited,
            wait=waited,
        )
        self.progress.step(step, epoch, loss / targets, int(tokens), self.context.ledger.crossed_bytes)

    def serve(self, client: ServedClient, number: int, step: int) -> tuple[float, int, int, float]:
        """One client's batch: activation in, loss, gradient out.

        Returns the summed loss, positions, targets, and the seconds spent waiting for the client.
        """
        started = time.perf_counter()
        activation = self.receive_activation(client, number, step)
        waited = time.perf_counter() - started
        loss, gradient = self.forward_backward(activation)
        targets = sum(map(len, activation.targets))
        self.check_finite(loss / targets, number, step)
        self.send_gradient(client, number, step, activation, gradient)
        record_training(
            self.context.log,
            step,
            self.context.schedule.epoch_of(step),
            number,
            loss=loss / targets,
            tokens=len(activation.rows),
            targets=targets,
            lr=self.optimizer.lr,
            seconds=time.perf_counter() - started - waited,
            wait=waited,
        )
        return loss, len(activation.rows), targets, waited

    def receive_activation(self, client: ServedClient, number: int, step: int) -> Activation:
        """Receive, check and decode one batch; asks once for a resync if the stores differ."""
        for may_resync in (True, False):
            expected = self.context.expected_activation(client.edge.peer, number, step)
            header, sections, wire = client.edge.receive(expected)
            started = time.perf_counter()
            samples, lengths = parse_manifest(header, sections["manifest"], expected)
            if header.store_digest != client.decoder.store.digest and may_resync:
                self.ask_for_resync(client, number, header, wire)
                continue
            try:
                targets = client.labels.unpack(sections["labels"], samples, lengths)
                coded = sections["modes"], sections["scales"], sections["symbols"]
                rows = client.decoder.decode(*coded, samples, lengths)
            except WireError as error:
                raise expected.error("body", str(error)) from None
            self.context.ledger.received(header, wire, len(sections["labels"]), time.perf_counter() - started)
            return Activation(rows, samples, lengths, targets)
        raise AssertionError("unreachable: the second answer is decoded or refused")

    def ask_for_resync(self, client: ServedClient, number: int, header: Header, wire: int) -> None:
        """Drop this client's references and have the batch sent again as I frames."""
        self.context.ledger.received(header, wire, 0, 0.0)
        reason = f"store of client {number}: digest {client.decoder.store.digest}, its {header.store_digest}"
        record_event(self.context.log, header.step, "resync", reason)
        client.decoder.store.clear()
        client.edge.post()
        answer = Header(LINK_CODES["down_gradient"], header.step, number, flags=RESYNC)
        self.context.ledger.sent(answer, client.edge.send(answer, {}), 0, 0.0, 0.0)

    def forward_backward(self, activation: Activation) -> tuple[float, Tensor | None]:
        """Summed loss over the targets, and its gradient at the cut (T, d); adapter gradients accumulate."""
        rows = activation.rows.requires_grad_(self.context.clients_train)
        hidden = forward_blocks(self.model, activation=to_padded(rows, activation.lengths))
        target_lengths = torch.tensor([len(targets) for targets in activation.targets])
        predicting = to_ragged(hidden, activation.lengths)[target_rows(activation.lengths, target_lengths)]
        logits = self.model.lm_head(predicting).float()
        loss = functional.cross_entropy(logits, torch.cat(activation.targets), reduction="sum")
        loss.backward()
        return float(loss.detach()), rows.grad

    def check_finite(self, mean_loss: float, number: int, step: int) -> None:
        if not torch.isfinite(torch.tensor(mean_loss)):
            raise UserError(
                f"loss is {mean_loss} at step {step} on client {number}: lower train.lr={self.context.config.train.lr} "
                "or look for broken weights"
            )

    def send_gradient(
        self, client: ServedClient, number: int, step: int, activation: Activation, gradient: Tensor | None
    ) -> None:
        """Answer with the gradient of the client's mean loss, or with an empty packet if clients do not train."""
        started = time.perf_counter()
        tokens, sections = len(activation.rows), {}
        if gradient is not None:
            mean_gradient = gradient / sum(map(len, activation.targets))
            frames = client.encoder.encode(mean_gradient, activation.samples, activation.lengths)
            sections = frames.sections
        header = Header(
            link=LINK_CODES["down_gradient"],
            step=step,
            client=number,
            samples=len(activation.samples),
            tokens=tokens,
            n_i=tokens if gradient is not None else 0,
            n_s=0 if gradient is not None else tokens,
        )
        encoded = time.perf_counter()
        wire = client.edge.send(header, sections)
        self.context.ledger.sent(header, wire, 0, encoded - started, time.perf_counter() - encoded)

    def report(self, step: int) -> None:
        """Send the adapter to the aggregator and wait for its evaluation."""
        world = self.context.world
        world.announce(f"adapter/{world.rank}/{step}")
        group = world.server_groups[world.rank]
        size = send_vector(flatten(self.parameters), world.layout.aggregator_rank, group)
        self.context.ledger.adapters(size)
        self.context.log.flush()
        self.take_verdict(step)

    def take_verdict(self, step: int) -> None:
        """Wait for the aggregator's evaluation and show it; while it makes progress this may take any time."""
        world = self.context.world
        verdict = json.loads(world.wait_for(f"verdict/{step}", [world.layout.aggregator_rank], "an evaluation"))
        self.progress.evaluated(self.context.schedule.epoch_of(step), verdict["ppl"])

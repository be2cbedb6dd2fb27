"""What a run would take on a measured cluster: seconds, bytes and memory of one choice of cut layer, rank and codec."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from splitcom_dist.plan.cluster import RankSpeed
from splitcom_dist.plan.steps import ClientRank, Course, ServerRank
from splitcom_dist.plan.workload import Adapter, adapter_elements
from splitcom_dist.planning.memory import held_by_role
from splitcom_dist.planning.setting import Choice, Setting
from splitcom_dist.predict import predict_adapters, predict_links


@dataclass(frozen=True)
class Estimate:
    choice: Choice
    step_seconds: float  # averagings included, evaluations not
    run_seconds: float  # as many steps as are worth those of the configured rank
    link_bytes: Mapping[str, int]  # of the whole run
    adapter_bytes: int
    client_memory: int | None  # bytes of one rank; None where the profile does not know what processes take
    server_memory: int | None

    @property
    def bytes(self) -> int:
        return sum(self.link_bytes.values()) + self.adapter_bytes


def estimate(setting: Setting, choice: Choice) -> Estimate:
    """Of one choice; of an entropy-coded or gated codec the bytes are foreseen as a run's logs have them."""
    config, schedule, shape = setting.applied(choice), setting.schedule, setting.shape
    adapter = Adapter(choice.rank, config.lora.target_modules)
    of_clients = adapter_elements(shape, adapter, 0, choice.cut_layer)
    of_servers = adapter_elements(shape, adapter, choice.cut_layer, shape.blocks)
    links = link_bytes(setting, choice)
    turns = sum(len(schedule.active_clients(step)) for step in range(schedule.total_steps))
    course = Course(
        clients=[
            _client(setting, choice, rank, {name: size / turns for name, size in links.items()})
            for rank in setting.layout.client_ranks
        ],
        servers=[_server(setting, choice, rank) for rank in setting.layout.server_ranks],
        steps=schedule.steps_per_epoch,
        round_steps=schedule.round_steps,
        adapter_bytes=4 * (of_clients + 1),
    )
    step_seconds = course.seconds() / schedule.steps_per_epoch
    worth = setting.rounds(choice.rank) / setting.rounds(setting.config.lora.rank)
    return Estimate(
        choice,
        step_seconds,
        step_seconds * schedule.total_steps * worth,
        links,
        predict_adapters(config, schedule, of_clients, of_servers),
        _memory(setting, choice, "client"),
        _memory(setting, choice, "server"),
    )


def link_bytes(setting: Setting, choice: Choice) -> dict[str, int]:
    """Of the whole run: what crosses if nothing is skipped, or the share of it that crossed in a run of this codec."""
    config, schedule, run = setting.applied(choice), setting.schedule, setting.profile.runs.get(choice.codec)
    whole = predict_links(config, setting.source, schedule, setting.shards)
    if run is None or not run.first:
        return {name: link.most for name, link in whole.items()}
    first = predict_links(config, setting.source, replace(schedule, epochs=1), setting.shards)
    later = run.later or dict.fromkeys(whole, 0.0)  # open_setting has seen to it that there are no later epochs
    return {
        name: round(run.first[name] * first[name].most + later[name] * (link.most - first[name].most))
        for name, link in whole.items()
    }


def _client(setting: Setting, choice: Choice, rank: int, packets: Mapping[str, float]) -> ClientRank:
    speed = _speed(setting, rank)
    edge = next(edge for edge in setting.profile.edges if edge.client_rank == rank)
    codec, blocks = speed.codecs[choice.codec], choice.cut_layer
    return ClientRank(
        turns=len(setting.layout.clients_of(rank)),
        before=speed.forward(blocks) + codec.encode,
        after=codec.decode + speed.backward(blocks) + speed.optimizer(blocks),
        up_bytes=packets["up_activation"],
        down_bytes=packets["down_gradient"],
        up=edge.up,
        down=edge.down,
        latency=edge.latency_seconds,
    )


def _server(setting: Setting, choice: Choice, rank: int) -> ServerRank:
    speed, blocks = _speed(setting, rank), setting.shape.blocks - choice.cut_layer
    codec = speed.codecs[choice.codec]
    return ServerRank(
        clients=[client for client, server in setting.layout.edges() if server == rank],
        serve=codec.decode + speed.forward(blocks) + speed.backward(blocks) + codec.encode,
        optimizer=speed.optimizer(blocks),
    )


def _memory(setting: Setting, choice: Choice, role: str) -> int | None:
    """What the model and its batch take, and what the processes take besides."""
    beside = [speed.process_bytes for speed in setting.profile.of_role(role)]
    known = [size for size in beside if size is not None]
    if len(known) < len(beside):
        return None
    return held_by_role(setting.applied(choice), setting.source, setting.layout, setting.batch, role) + max(known)


def _speed(setting: Setting, rank: int) -> RankSpeed:
    return next(speed for speed in setting.profile.ranks if speed.rank == rank)

"""Which runs can be profiled and planned: whole servers in the standard shape that serve clients one after the other,
one cut and one LoRA rank for all clients, which take part in every step at the speed that their ranks have."""

from splitcom_dist.config.schema import Config, lookup
from splitcom_dist.errors import UserError


def check_planned(config: Config) -> None:
    """Raise UserError, with the mend, for a run that is not among them."""
    if config.model.tail_layers:
        raise UserError("model.tail_layers: only the standard shape is planned, set model.tail_layers=0")
    if config.roles.server_shards > 1:
        raise UserError("roles.server_shards: only whole servers are planned, set roles.server_shards=1")
    if config.roles.server_batching != "sequential":
        raise UserError(
            "roles.server_batching: only one client after another is planned, set roles.server_batching=sequential"
        )
    if config.fed.participation < 1:
        raise UserError("fed.participation: rounds of some clients are not planned, set fed.participation=1")
    if config.rest.policy != "never":
        raise UserError("rest.policy: epochs in which heads rest are not planned, set rest.policy=never")
    if config.train.micro_batches > 1:
        raise UserError("train.micro_batches: only batches that cross as one are planned, set train.micro_batches=1")
    for key, needed in (
        ("fed.cut_layers", None),
        ("fed.cuts.policy", "static"),
        ("lora.cut_rank", None),
        ("lora.ranks", None),
        ("fed.rank_aggregation", "zero_pad"),
    ):
        if lookup(config, key) != needed:
            raise UserError(f"{key}: one cut and one LoRA rank are planned for all clients, leave it as it was")
    if config.fed.speed.dist != "none" or config.fed.straggler != "wait":
        raise UserError("fed.speed, fed.straggler: emulated and late clients are not planned, leave both as they were")

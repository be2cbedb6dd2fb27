"""Keys about clients, ranks, cuts and paces that contradict each other."""

from collections.abc import Sequence

from splitcom_dist.config.implied import cuts_move
from splitcom_dist.config.schema import Config, lookup
from splitcom_dist.errors import UserError


def check_federation(config: Config) -> None:
    """Raise UserError for the first contradiction; names the key and the mend."""
    if config.fed.clients < config.roles.client_ranks:
        raise UserError(
            f"fed.clients={config.fed.clients} is fewer than roles.client_ranks={config.roles.client_ranks}: "
            "every client rank needs a logical client; raise fed.clients or lower roles.client_ranks"
        )
    if not 0 < config.fed.participation <= 1:
        raise UserError(f"fed.participation={config.fed.participation}: must be above 0 and at most 1")
    if config.fed.participation < 1 and config.rest.policy != "never":
        raise UserError(
            f"rest.policy={config.rest.policy}: with fed.participation={config.fed.participation} a server has not "
            "heard all samples that it would go on with; set fed.participation=1 or rest.policy=never"
        )
    if config.fed.lost == "go_on":
        for key, fit in (
            ("transport", ("tcp", "gloo")),
            ("fed.adapter_quantizer", ("none",)),
            ("rest.policy", ("never",)),
        ):
            if (value := lookup(config, key)) not in fit:
                raise UserError(
                    f"fed.lost=go_on: {key}={value} cannot do without a rank that is lost; set {key}={fit[0]}"
                )
    _check_cuts(config)
    if config.roles.server_ranks > config.roles.client_ranks:
        raise UserError(
            f"roles.server_ranks={config.roles.server_ranks} is more than roles.client_ranks="
            f"{config.roles.client_ranks}: a server without a client rank would serve nobody; raise roles.client_ranks "
            "or lower roles.server_ranks"
        )
    _check_batching(config)
    _check_ranks(config)
    _check_pace(config)


def _check_batching(config: Config) -> None:
    batching = config.roles.server_batching
    if batching == "sequential":
        return
    for key, least in (("model.tail_layers", 0), ("roles.server_shards", 1)):
        if lookup(config, key) != least:
            raise UserError(
                f"roles.server_batching={batching}: only whole servers of the standard shape merge; set {key}={least} "
                "or roles.server_batching=sequential"
            )
    if batching == "arrival" and config.transport == "nccl":
        raise UserError(
            "roles.server_batching=arrival: transport=nccl has one transfer under way at a time; set transport=tcp or "
            "roles.server_batching=merged"
        )


def _check_cuts(config: Config) -> None:
    cuts = config.fed.cut_layers
    if cuts is not None and len(cuts) != config.fed.clients:
        raise UserError(f"fed.cut_layers: {len(cuts)} cuts for fed.clients={config.fed.clients}; give one for each")
    if cuts is not None and min(cuts) < 1:
        raise UserError(f"fed.cut_layers: a cut at {min(cuts)}: every client has at least 1 block")
    if cuts_move(config):
        _check_bounds(config, cuts or [config.model.cut_layer])
    elif cuts is None or min(cuts) == max(cuts):
        return
    what = "fed.cuts move" if cuts_move(config) else "fed.cut_layers differ"
    for key, needed, why in (
        ("fed.lost", "end", "servers take part in the averaging and cannot do without a rank"),
        ("fed.adapter_quantizer", "none", "the changes that ranks give to a mean are of different blocks"),
        ("roles.server_shards", 1, "a server's shards do not know where a batch enters"),
        ("lora.ranks", None, "a block would be of one rank at its client and of another at the server"),
        ("fed.rank_aggregation", "zero_pad", "no rank has the whole adapters that it would need"),
        ("rest.policy", "never", "blocks that rest at one client would train at a server for another"),
    ):
        if (value := lookup(config, key)) != needed:
            raise UserError(f"{key}={value}: where {what} {why}; set {key}={needed} or equal cuts")
    if config.codec.down_gradient.gate == "never":
        raise UserError(
            f"codec.down_gradient.gate=never (codec {config.codec.name}): heads freeze, but where {what} "
            "a server trains blocks of them for others; take another codec or equal cuts"
        )


def _check_bounds(config: Config, cuts: Sequence[int]) -> None:
    """Of cuts that move."""
    bounds = config.fed.cuts
    if bounds.deepest is None:
        raise UserError(
            f"fed.cuts.policy={bounds.policy}: say with fed.cuts.deepest how many blocks a client may train at most"
        )
    if not bounds.shallowest < bounds.deepest:
        raise UserError(f"fed.cuts.shallowest={bounds.shallowest}: must be below fed.cuts.deepest={bounds.deepest}")
    for cut in cuts:
        if not bounds.shallowest <= cut <= bounds.deepest:
            key = "model.cut_layer" if config.fed.cut_layers is None else "fed.cut_layers"
            raise UserError(
                f"{key}={cut}: begins outside fed.cuts.shallowest={bounds.shallowest} to fed.cuts.deepest="
                f"{bounds.deepest}; move it or them"
            )


def _check_ranks(config: Config) -> None:
    lora, fed = config.lora, config.fed
    if lora.cut_rank is not None and lora.cut_rank > lora.rank:
        raise UserError(
            f"lora.cut_rank={lora.cut_rank}: must not exceed lora.rank={lora.rank}, that of the other blocks; "
            "lower it, or leave it out for one rank everywhere"
        )
    if lora.ranks is not None and len(lora.ranks) != fed.clients:
        raise UserError(f"lora.ranks: {len(lora.ranks)} ranks for fed.clients={fed.clients}; give one for each")
    for rank in lora.ranks or ():
        if not 1 <= rank <= lora.rank:
            raise UserError(f"lora.ranks={rank}: a client's rank is at least 1 and at most lora.rank={lora.rank}")
    by_product = fed.rank_aggregation != "zero_pad"
    if fed.adapter_quantizer != "none" and (by_product or lora.ranks is not None):
        key = f"fed.rank_aggregation={fed.rank_aggregation}" if by_product else "lora.ranks"
        raise UserError(
            f"{key}: fed.adapter_quantizer={fed.adapter_quantizer} sends changes of one adapter that all have; set "
            "fed.adapter_quantizer=none"
        )
    if by_product and fed.lost == "go_on":
        raise UserError(
            f"fed.rank_aggregation={fed.rank_aggregation}: fed.lost=go_on cannot do without a rank that is lost during "
            "it; set fed.rank_aggregation=zero_pad or fed.lost=end"
        )


def _check_pace(config: Config) -> None:
    fed, speed = config.fed, config.fed.speed
    if speed.dist == "list" and len(speed.values) != fed.clients:
        raise UserError(
            f"fed.speed.values: {len(speed.values)} speeds for fed.clients={fed.clients}; give one for each"
        )
    for key, value in (("low", speed.low), ("high", speed.high), *(("values", value) for value in speed.values)):
        if not 0 < value <= 1:
            raise UserError(f"fed.speed.{key}={value}: a speed is above 0 and at most 1, that of the rank itself")
    if speed.low > speed.high:
        raise UserError(f"fed.speed.low={speed.low}: must not exceed fed.speed.high={speed.high}")
    if fed.straggler == "deadline" and not fed.deadline_seconds:
        raise UserError(
            "fed.straggler=deadline: say with fed.deadline_seconds how long a client may compute in a round"
        )
    if fed.straggler == "deadline" and config.rest.policy != "never":
        raise UserError(
            f"fed.straggler=deadline: with rest.policy={config.rest.policy} a server goes on by itself and hears of no "
            "late client; set rest.policy=never or fed.straggler=wait"
        )

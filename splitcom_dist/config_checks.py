"""What no run could use: values outside their range, and keys that contradict each other."""

import math

from splitcom_dist.config import (
    Config,
    DataConfig,
    LinkCodecConfig,
    LinkConfig,
    gated_links,
    lookup,
    stays_on_device,
)
from splitcom_dist.errors import UserError
from splitcom_dist.links import LINKS, links_of

CHOICES = {
    "model.dtype": ("float32", "bfloat16"),
    "data.overlong": ("truncate", "drop", "error"),
    "data.partition": ("iid", "dirichlet_label", "dirichlet_length", "by_source"),
    "train.optimizer": ("adamw", "sgd"),
    "train.schedule": ("linear", "cosine", "constant"),
    "codec.up_activation.gate": ("always", "once", "cosine", "error"),
    "codec.down_activation.gate": ("always", "cosine", "error"),
    "codec.up_gradient.gate": ("always", "cosine", "sampled"),
    "codec.down_gradient.gate": ("always", "never", "cosine", "sampled"),
    **{f"codec.{link}.predictor": ("none", "delta") for link in LINKS},
    **{f"codec.{link}.quantizer": ("none", "fp16", "int8", "channels", "low_rank", "tiles") for link in LINKS},
    **{f"codec.{link}.store_dtype": ("bfloat16", "float32", "int8") for link in LINKS},
    **{f"codec.{link}.store": ("ram", "disk") for link in LINKS},
    "fed.adapter_quantizer": ("none", "int8"),
    "fed.rank_aggregation": ("zero_pad", "svd"),
    "fed.lost": ("end", "go_on"),
    "fed.speed.dist": ("none", "uniform", "list"),
    "fed.straggler": ("wait", "deadline"),
    "rest.policy": ("never", "every_k", "freeze_after", "gain"),
    "control.name": ("fixed", "bang_bang", "ddpg", "byte_budget"),
    "control.ddpg.every": ("round", "epoch"),
    "telemetry.baseline_dtype": ("float16", "float32"),
    "runtime.device": ("auto", "cpu", "cuda"),
    "transport": ("gloo", "nccl", "mpi"),
    "resume": ("never", "auto"),
}
AT_LEAST = {
    "model.cut_layer": 1,
    "model.tail_layers": 0,
    "lora.rank": 1,
    "lora.cut_rank": 1,
    "data.max_length": 8,
    "data.classes": 1,
    "data.min_shard": 1,
    "data.train_samples": 1,
    "data.validation_samples": 1,
    "roles.client_ranks": 1,
    "roles.server_ranks": 1,
    "roles.server_shards": 1,
    "fed.clients": 1,
    "fed.every": 1,
    "fed.resident": 0,
    "fed.returns": 0,
    "fed.deadline_seconds": 0,
    "train.epochs": 1,
    "train.batch_size": 1,
    "train.lr": 0,
    "train.weight_decay": 0,
    "train.warmup_steps": 0,
    "train.max_grad_norm": 0,
    "train.seed": 0,
    **{f"codec.{link}.sketch_rows": 1 for link in LINKS},
    **{f"codec.{link}.bits": 2 for link in LINKS},
    **{f"codec.{link}.low_rank": 1 for link in LINKS},
    **{f"codec.{link}.store_rows": 0 for link in LINKS},
    "checkpoint.every": 0,
    "checkpoint.keep": 1,
    "rest.every": 2,
    "rest.epochs": 0,
    "rest.patience": 1,
    "rest.least": 0,
    "control.bang_bang.tolerance": 0,
    "control.bang_bang.release": 0,
    "control.ddpg.quality_weight": 0,
    "control.ddpg.discount": 0,
    "control.ddpg.noise": 0,
    "control.ddpg.noise_decay": 0,
    "control.ddpg.updates": 0,
    "control.byte_budget.megabytes": 0,
    "eval.every": 1,
    "eval.batch_size": 1,
    "runtime.timeout_seconds": 1,
    "runtime.threads": 0,
    "runtime.link.up_mbit": 0,
    "runtime.link.down_mbit": 0,
    "runtime.link.delay_ms": 0,
}


def validate(config: Config) -> None:
    """Raise UserError for the first value that no run could use; names the key and the mend."""
    for key, choices in CHOICES.items():
        if (value := lookup(config, key)) not in choices:
            raise UserError(f"{key}={value}: choose one of {', '.join(choices)}")
    for key, least in AT_LEAST.items():
        value = lookup(config, key)
        if value is not None and not value >= least:
            raise UserError(f"{key}={value}: must be at least {least}")
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
        for key, needed in (("transport", "gloo"), ("fed.adapter_quantizer", "none"), ("rest.policy", "never")):
            if (value := lookup(config, key)) != needed:
                raise UserError(
                    f"fed.lost=go_on: {key}={value} cannot do without a rank that is lost; set {key}={needed}"
                )
    _check_cuts(config)
    if config.roles.server_ranks > config.roles.client_ranks:
        raise UserError(
            f"roles.server_ranks={config.roles.server_ranks} is more than roles.client_ranks="
            f"{config.roles.client_ranks}: a server without a client rank would serve nobody; raise roles.client_ranks "
            "or lower roles.server_ranks"
        )
    if "{client}" in (config.data.path or "") and config.data.validation_path is None:
        raise UserError("data.path holds {client}: say where the aggregator's is with data.validation_path")
    _check_ranks(config)
    _check_partition(config.data)
    _check_pace(config)
    thetas = [f"codec.{link}.theta" for link in LINKS]
    bounds = [f"control.{kind}.{bound}" for kind in ("activation", "gradient") for bound in ("low", "high")]
    for key in (*thetas, *bounds):
        if not -1 <= lookup(config, key) <= 1:
            raise UserError(f"{key}={lookup(config, key)}: a cosine lies between -1 and 1")
    for low, high in (bounds[:2], bounds[2:], ("control.bang_bang.release", "control.bang_bang.tolerance")):
        if lookup(config, low) > lookup(config, high):
            raise UserError(f"{low}={lookup(config, low)}: must not exceed {high}={lookup(config, high)}")
    if config.control.name != "fixed" and not gated_links(config):
        raise UserError(f"control.name={config.control.name}: codec {config.codec.name} has no threshold to move")
    for link in LINKS:
        codec = getattr(config.codec, link)
        if codec.rescale and codec.gate != "cosine":
            raise UserError(f"codec.{link}.rescale: only a cosine gate has what it takes, gate={codec.gate} has none")
        _check_link(f"codec.{link}", codec)
    if (config.codec.up_activation.gate == "once") != (config.codec.down_gradient.gate == "never"):
        raise UserError(
            "codec.up_activation.gate=once and codec.down_gradient.gate=never go together: "
            "what is sent once is right only while the head does not train (preset codec=frozen)"
        )
    if config.rest.policy != "never" and config.codec.up_activation.gate == "always":
        raise UserError(
            f"rest.policy={config.rest.policy}: codec.up_activation.gate=always keeps no references to go on with; "
            "take codec=video, or gate cosine or error"
        )
    if config.rest.policy == "gain" and config.codec.down_gradient.gate == "never":
        raise UserError("rest.policy=gain: codec.down_gradient.gate=never leaves heads nothing to wake for")
    for key in ("lora.dropout", "model.dropout", "control.ddpg.discount"):
        if not 0 <= lookup(config, key) < 1:
            raise UserError(f"{key}={lookup(config, key)}: must be at least 0 and below 1")
    if config.transport == "nccl":
        _check_nccl(config)


def _check_nccl(config: Config) -> None:
    if config.runtime.device == "cpu":
        raise UserError(
            "transport=nccl: with runtime.device=cpu there is nothing on a GPU to send; set runtime.device=cuda or "
            "transport=gloo"
        )
    if config.runtime.link != LinkConfig():
        raise UserError("runtime.link: holds back what is in host memory, not what NCCL sends; set transport=gloo")
    links = [lookup(config.codec, link) for link in links_of(config.model.tail_layers)]
    if not any(stays_on_device(link) and link.gate != "never" for link in links):
        raise UserError(
            f"transport=nccl: codec {config.codec.name} makes all its packets in host memory; set transport=gloo or "
            "mpi, or a codec of none, fp16, int8 or splitcom"
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
    by_svd = fed.rank_aggregation == "svd"
    if fed.adapter_quantizer != "none" and (by_svd or lora.ranks is not None):
        key = "fed.rank_aggregation=svd" if by_svd else "lora.ranks"
        raise UserError(
            f"{key}: fed.adapter_quantizer={fed.adapter_quantizer} sends changes of one adapter that all have; set "
            "fed.adapter_quantizer=none"
        )
    if by_svd and fed.lost == "go_on":
        raise UserError(
            "fed.rank_aggregation=svd: fed.lost=go_on cannot do without a rank that is lost during it; set "
            "fed.rank_aggregation=zero_pad or fed.lost=end"
        )


def _check_partition(data: DataConfig) -> None:
    if "{client}" in (data.path or "") and data.partition != "iid":
        raise UserError(
            f"data.partition={data.partition}: data.path holds {{client}}, so every client has its own files and there "
            "is no pool to divide; name one file or folder in data.path, or leave data.partition out"
        )
    if data.partition == "dirichlet_label" and data.label_field is None:
        raise UserError("data.partition=dirichlet_label: say by which field with data.label_field")
    if not 0 < data.alpha < math.inf:
        raise UserError(f"data.alpha={data.alpha}: must be above 0 and finite")


def _check_cuts(config: Config) -> None:
    cuts = config.fed.cut_layers
    if cuts is None:
        return
    if len(cuts) != config.fed.clients:
        raise UserError(f"fed.cut_layers: {len(cuts)} cuts for fed.clients={config.fed.clients}; give one for each")
    if min(cuts) < 1:
        raise UserError(f"fed.cut_layers: a cut at {min(cuts)}: every client has at least 1 block")
    if min(cuts) == max(cuts):
        return
    for key, needed, why in (
        ("fed.lost", "end", "servers take part in the averaging and cannot do without a rank"),
        ("fed.adapter_quantizer", "none", "the changes that ranks give to a mean are of different blocks"),
        ("roles.server_shards", 1, "a server's shards do not know where a batch enters"),
        ("lora.ranks", None, "a block would be of one rank at its client and of another at the server"),
        ("fed.rank_aggregation", "zero_pad", "no rank has the whole adapters that it would need"),
        ("rest.policy", "never", "blocks that rest at one client would train at a server for another"),
    ):
        if (value := lookup(config, key)) != needed:
            raise UserError(f"{key}={value}: where fed.cut_layers differ {why}; set {key}={needed} or equal cuts")
    if config.codec.down_gradient.gate == "never":
        raise UserError(
            f"codec.down_gradient.gate=never (codec {config.codec.name}): heads freeze, but where fed.cut_layers "
            "differ a server trains blocks of them for others; take another codec or equal cuts"
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


def _check_link(name: str, codec: LinkCodecConfig) -> None:
    matrices = ("channels", "low_rank")
    if codec.quantizer in matrices and codec.gate != "always":
        raise UserError(f"{name}.quantizer={codec.quantizer}: needs gate=always, not {codec.gate}")
    if codec.predictor == "delta" and codec.quantizer not in matrices:
        raise UserError(f"{name}.predictor=delta: needs quantizer channels or low_rank, not {codec.quantizer}")
    if codec.quantizer == "low_rank" and codec.predictor != "delta":
        raise UserError(f"{name}.quantizer=low_rank: codes changes, so it needs predictor=delta")
    if codec.gate in ("error", "sampled") and codec.quantizer != "none":
        raise UserError(f"{name}.quantizer={codec.quantizer}: gate={codec.gate} has a quantizer of its own, set none")
    for key, needed in (("store_dtype", "int8"), ("store", "disk")):
        if getattr(codec, key) == needed and codec.gate != "error":
            raise UserError(f"{name}.{key}={needed}: only gate=error keeps references that way, not {codec.gate}")
    if codec.store_rows and codec.gate != "error":
        raise UserError(f"{name}.store_rows={codec.store_rows}: only gate=error forgets, not {codec.gate}")
    if codec.bits > 8:
        raise UserError(f"{name}.bits={codec.bits}: at most 8")
    for key in ("tau", "refine", "noise", "keep"):
        if not 0 < getattr(codec, key) <= 1:
            raise UserError(f"{name}.{key}={getattr(codec, key)}: must be above 0 and at most 1")
    if not 0 < codec.rounding <= 0.5:
        raise UserError(f"{name}.rounding={codec.rounding}: must be above 0 and at most 0.5")

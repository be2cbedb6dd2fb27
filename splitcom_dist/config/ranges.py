"""The values of single keys that a run can use."""

from splitcom_dist.config.schema import Config, lookup
from splitcom_dist.errors import UserError
from splitcom_dist.links import LINKS

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
    "fed.rank_aggregation": ("zero_pad", "svd", "stack"),
    "roles.server_batching": ("sequential", "merged", "arrival"),
    "roles.overlap": ("none", "transfers", "full", "auto"),
    "fed.cuts.policy": ("static", "balance_time", "splitft"),
    "fed.lost": ("end", "go_on"),
    "fed.speed.dist": ("none", "uniform", "list"),
    "fed.straggler": ("wait", "deadline"),
    "rest.policy": ("never", "every_k", "freeze_after", "gain"),
    "control.name": ("fixed", "bang_bang", "ddpg", "byte_budget"),
    "control.ddpg.every": ("round", "epoch"),
    "telemetry.baseline_dtype": ("float16", "float32"),
    "runtime.device": ("auto", "cpu", "cuda"),
    "transport": ("tcp", "gloo", "nccl", "mpi"),
    "resume": ("never", "auto"),
}
ADDED: dict[str, list[str]] = {}  # values that extensions have added to a key, or to a last part of several keys
WRITERS = ("tensorboard", "wandb", "mlflow")
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
    "roles.batching_window": 0,
    "fed.clients": 1,
    "fed.cuts.shallowest": 1,
    "fed.cuts.deepest": 1,
    "fed.cuts.gain": 0,
    "fed.cuts.gamma": 0,
    "fed.every": 1,
    "fed.resident": 0,
    "fed.returns": 0,
    "fed.deadline_seconds": 0,
    "train.epochs": 1,
    "train.batch_size": 1,
    "train.micro_batches": 1,
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
    "telemetry.sketch": 0,
    "runtime.timeout_seconds": 1,
    "runtime.threads": 0,
    "runtime.link.up_mbit": 0,
    "runtime.link.down_mbit": 0,
    "runtime.link.delay_ms": 0,
}


def add_choice(key: str, value: str) -> None:
    """Let `key`, or every key that ends in it, take one more value. Raises UserError where it takes it already."""
    known = [choice for name, choices in CHOICES.items() if name.endswith(key) for choice in choices]
    if value in known + ADDED.get(key, []):
        raise UserError(f"{key}={value} exists already; take another name")
    ADDED.setdefault(key, []).append(value)


def is_added(key: str, value: str) -> bool:
    """Whether `value` of `key` is an extension's."""
    return any(key.endswith(name) and value in added for name, added in ADDED.items())


def check_ranges(config: Config) -> None:
    """Raise UserError for the first key outside its choices or below its least value."""
    for key, choices in CHOICES.items():
        if (value := lookup(config, key)) not in choices and not is_added(key, value):
            added = [choice for name, more in ADDED.items() if key.endswith(name) for choice in more]
            raise UserError(f"{key}={value}: choose one of {', '.join([*choices, *added])}")
    if unknown := sorted(set(config.telemetry.writers) - set(WRITERS)):
        raise UserError(f"telemetry.writers: {unknown[0]} is unknown; known are {', '.join(WRITERS)}")
    for key, least in AT_LEAST.items():
        value = lookup(config, key)
        if value is not None and not value >= least:
            raise UserError(f"{key}={value}: must be at least {least}")

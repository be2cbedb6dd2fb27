"""The configuration: one typed schema, YAML files merged left to right, then dotted overrides."""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from splitcom_dist.errors import UserError
from splitcom_dist.links import LINKS, links_of


@dataclass
class ModelConfig:
    name: str = "tiny"  # tiny (in the package), smollm2 (extra), a hub name or a local directory
    cut_layer: int = 2  # blocks 0..cut_layer-1 are the client's head
    tail_layers: int = 0  # U-shape: so many last blocks, final norm and LM head are the client's too; 0 = standard
    dtype: str = "float32"  # of weights and activations: float32 or bfloat16
    dropout: float = 0.0  # of the frozen blocks; its noise would make every epoch's activations new


@dataclass
class LoraConfig:
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: list[str] | None = None  # None: the family's attention projections


@dataclass
class DataConfig:
    name: str = "synthetic"
    path: str | None = None  # folder with train/valid files, or one file; {client} in it: every client has its own
    validation_path: str | None = None  # where the aggregator finds the validation split; None: under path
    max_length: int = 128  # tokens of a sample, end marks included; the padded baseline pays for all of them
    overlong: str = "truncate"  # truncate, drop or error: what happens to a longer sample
    train_samples: int | None = None  # a seeded random subset; None takes all
    validation_samples: int | None = 200
    partition: str = "iid"


@dataclass
class RolesConfig:
    client_ranks: int = 3
    server_ranks: int = 1  # the aggregator is one rank more


@dataclass
class FedConfig:
    clients: int = 3  # logical clients, at least one a client rank
    every: int = 10  # steps from one averaging of client adapters to the next


@dataclass
class TrainConfig:
    epochs: int = 5
    batch_size: int = 8  # samples a logical client gives to one step
    lr: float = 1e-3
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    schedule: str = "linear"  # linear, cosine or constant, after the warm-up
    warmup_steps: int = 0
    max_grad_norm: float = 1.0  # clips head and body apart; 0 leaves gradients as they are
    seed: int = 0


@dataclass
class LinkCodecConfig:
    gate: str = "always"  # always or cosine; up_activation also once, with down_gradient never: the head stays frozen
    theta: float = 0.98  # cosine gate: a sample more similar than this to its reference is skipped
    sketch_rows: int = 64  # rows k of the random projection
    rescale: bool = False  # a skipped token's reference is scaled to the token's length along it; 2 bytes a token
    quantizer: str = "none"  # none, fp16 or int8
    store_dtype: str = "bfloat16"  # of the receiver's references: bfloat16 or float32


@dataclass
class CodecConfig:
    name: str = "none"
    up_activation: LinkCodecConfig = field(default_factory=LinkCodecConfig)
    down_activation: LinkCodecConfig = field(default_factory=LinkCodecConfig)  # U-shape only
    up_gradient: LinkCodecConfig = field(default_factory=LinkCodecConfig)  # U-shape only
    down_gradient: LinkCodecConfig = field(default_factory=LinkCodecConfig)


@dataclass
class Bounds:
    low: float  # few uploads
    high: float  # many


@dataclass
class BangBangConfig:
    tolerance: float = 0.01  # relative rise of perplexity above its best that switches to the high thresholds
    release: float = 0.0  # back to the low ones once perplexity is within this of its best


@dataclass
class DdpgConfig:
    every: str = "round"  # one action a round (rewarded by training loss) or an epoch (by validation loss)
    quality_weight: float = 10.0  # reward: -quality_weight x rise of the loss in nats - wire bytes / raw bytes
    discount: float = 0.9
    noise: float = 0.3  # exploration: scale of the Ornstein-Uhlenbeck noise on an action in [-1, 1]
    noise_decay: float = 0.98  # of that scale, a decision
    updates: int = 16  # gradient steps a decision, once the replay holds a batch
    load: str | None = None  # ddpg.safetensors of another run: its networks and replay


@dataclass
class ByteBudgetConfig:
    megabytes: float = 100.0  # of the whole run: all links, labels, headers and adapters


@dataclass
class ControlConfig:
    name: str = "fixed"  # fixed, bang_bang, ddpg or byte_budget
    activation: Bounds = field(default_factory=lambda: Bounds(0.98, 0.998))  # thresholds of activation links
    gradient: Bounds = field(default_factory=lambda: Bounds(0.8, 0.98))  # and of gradient links
    bang_bang: BangBangConfig = field(default_factory=BangBangConfig)
    ddpg: DdpgConfig = field(default_factory=DdpgConfig)
    byte_budget: ByteBudgetConfig = field(default_factory=ByteBudgetConfig)


@dataclass
class EvalConfig:
    every: int = 1  # epochs between evaluations; the last epoch is always evaluated
    batch_size: int = 16


@dataclass
class TelemetryConfig:
    baseline_dtype: str = "float16"  # what the raw baselines send: float16 or float32
    progress: bool = True


@dataclass
class RuntimeConfig:
    timeout_seconds: float = 300.0  # longest silence of a peer before it counts as lost
    threads: int = 0  # compute threads a rank; 0 shares the cores of this machine among its ranks


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    data: DataConfig = field(default_factory=DataConfig)
    roles: RolesConfig = field(default_factory=RolesConfig)
    fed: FedConfig = field(default_factory=FedConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    transport: str = "gloo"


CHOICES = {
    "model.dtype": ("float32", "bfloat16"),
    "data.overlong": ("truncate", "drop", "error"),
    "data.partition": ("iid",),
    "train.optimizer": ("adamw", "sgd"),
    "train.schedule": ("linear", "cosine", "constant"),
    **{f"codec.{link}.gate": ("always", "cosine") for link in ("down_activation", "up_gradient")},
    "codec.up_activation.gate": ("always", "once", "cosine"),
    "codec.down_gradient.gate": ("always", "never", "cosine"),
    **{f"codec.{link}.quantizer": ("none", "fp16", "int8") for link in LINKS},
    **{f"codec.{link}.store_dtype": ("bfloat16", "float32") for link in LINKS},
    "control.name": ("fixed", "bang_bang", "ddpg", "byte_budget"),
    "control.ddpg.every": ("round", "epoch"),
    "telemetry.baseline_dtype": ("float16", "float32"),
    "transport": ("gloo",),
}
AT_LEAST = {
    "model.cut_layer": 1,
    "model.tail_layers": 0,
    "lora.rank": 1,
    "data.max_length": 8,
    "data.train_samples": 1,
    "data.validation_samples": 1,
    "roles.client_ranks": 1,
    "roles.server_ranks": 1,
    "fed.clients": 1,
    "fed.every": 1,
    "train.epochs": 1,
    "train.batch_size": 1,
    "train.lr": 0,
    "train.weight_decay": 0,
    "train.warmup_steps": 0,
    "train.max_grad_norm": 0,
    "train.seed": 0,
    **{f"codec.{link}.sketch_rows": 1 for link in LINKS},
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
    if config.roles.server_ranks != 1:
        raise UserError(f"roles.server_ranks={config.roles.server_ranks}: one server rank is supported, set 1")
    if "{client}" in (config.data.path or "") and config.data.validation_path is None:
        raise UserError("data.path holds {client}: say where the aggregator's is with data.validation_path")
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
    if (config.codec.up_activation.gate == "once") == head_trains(config):
        raise UserError(
            "codec.up_activation.gate=once and codec.down_gradient.gate=never go together: "
            "what is sent once is right only while the head does not train (preset codec=frozen)"
        )
    for key in ("lora.dropout", "model.dropout", "control.ddpg.discount"):
        if not 0 <= lookup(config, key) < 1:
            raise UserError(f"{key}={lookup(config, key)}: must be at least 0 and below 1")


def head_trains(config: Config) -> bool:
    """Whether a gradient comes down to the clients' heads."""
    return config.codec.down_gradient.gate != "never"


def gated_links(config: Config) -> list[str]:
    """The links of the run's shape whose gate has a threshold, in the order of a step."""
    return [link for link in links_of(config.model.tail_layers) if lookup(config.codec, link).gate == "cosine"]


def bounds_of(config: Config, link: str) -> Bounds:
    """Between what a controller moves the threshold of a link."""
    return config.control.activation if link.endswith("activation") else config.control.gradient


def lookup(config: Any, key: str) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        config = getattr(config, part)
    return config


def all_keys(node: Any, prefix: str = "") -> list[str]:
    """Every dotted key of the schema, groups and leaves."""
    keys = []
    for item in fields(node):
        key = prefix + item.name
        keys.append(key)
        value = getattr(node, item.name)
        if is_dataclass(value):
            keys += all_keys(value, key + ".")
    return keys

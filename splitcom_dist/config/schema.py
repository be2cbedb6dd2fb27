"""The schema: every key with its default and meaning."""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any


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
    # of the blocks next to a cut, on both sides: a client's last and the server's first, in the U-shape the server's
    # last and the tail's first too; None: rank. alpha stays, so that these are scaled by alpha / cut_rank
    cut_rank: int | None = None
    # one a logical client, at most rank: the last rows of its A's and columns of its B's are zero and do not train;
    # every client's change is scaled by alpha / rank, so that changes can be averaged; None: rank for all
    ranks: list[int] | None = None
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
    # how one pool is divided, where data.path has no {client}: iid; dirichlet_label: each label's samples by
    # Dir(alpha); dirichlet_length: each length class's; by_source: all of a source, or of a label, to one client
    partition: str = "iid"
    alpha: float = 0.5  # of Dir(alpha): small ones are skewed, large ones even
    classes: int = 10  # dirichlet_length: samples sorted by tokens, cut into so many classes
    label_field: str | None = None  # a field of the rows, or an attribute of the linearised sources
    min_shard: int = 1  # samples that every client must have


@dataclass
class RolesConfig:
    client_ranks: int = 3
    server_ranks: int = 1  # client rank c has server c mod server_ranks; the aggregator is one rank more
    server_shards: int = 1  # ranks of each server: they share the frozen weights of its body (FSDP2) and its batches
    # sequential: a server takes its clients one after another, and others compute meanwhile; merged: those of a wave,
    # one of each client rank, in one pass of the body, which each enters at its cut; arrival: those of a wave that have
    # come, in one pass, then those that have come meanwhile. Who comes first is chance: the bits are not the same again
    server_batching: str = "sequential"
    batching_window: float = 0.0  # arrival: seconds that who has come may be kept waiting for others
    # none: a client's next micro-batch goes up when the gradient of the last has come; transfers: all go up at once and
    # cross while ranks compute; full: and are encoded meanwhile, which wants idle cores; auto: by what steps of each
    # kind take at the start. The same adapters
    overlap: str = "auto"


@dataclass
class SpeedConfig:
    """Slow devices, emulated: what a logical client of speed s computes lasts 1/s as long as it takes."""

    dist: str = "none"  # none; uniform: drawn between low and high, with train.seed; list: the values
    low: float = 0.25
    high: float = 1.0  # that of the rank itself
    values: list[float] = field(default_factory=list)  # one a logical client


@dataclass
class CutsConfig:
    """Who moves clients' cuts between rounds."""

    # static: nobody; balance_time: so that a step is short, by measured times; splitft: by a client's time and loss
    policy: str = "static"
    shallowest: int = 1
    deepest: int | None = None  # where cuts move every client rank holds so many blocks, behind whichever it is cut
    gain: float = 0.1  # balance_time: moves once the step is foreseen to be shorter by this share
    gamma: float = 1.0  # splitft: how fast


@dataclass
class FedConfig:
    clients: int = 3  # logical clients, at least one a client rank
    cut_layers: list[int] | None = None  # one a logical client; None: model.cut_layer for all of them
    cuts: CutsConfig = field(default_factory=CutsConfig)
    every: int = 10  # steps from one averaging of client adapters to the next
    participation: float = 1.0  # share of the logical clients that is drawn for each such round, at least one
    resident: int = 0  # logical clients that a rank keeps in memory, the others parked in the run directory; 0 = all
    lost: str = "end"  # when a client rank is lost: end, or go_on with the others until it comes back
    returns: int = 16  # go_on: how often a client rank may come back
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    # wait for every client in every step; or deadline: one that has computed for so long in a round leaves out the
    # rest of its turns in it, and the others go on without it
    straggler: str = "wait"
    deadline_seconds: float = 0.0
    # zero_pad: the mean of the factors, padded with zeros; svd: the mean of the products of each client's factors, cut
    # off at each client's rank; stack: that mean whole, merged into the frozen weights of all, and clients begin every
    # round with new factors and moments
    rank_aggregation: str = "zero_pad"
    adapter_quantizer: str = "none"  # of adapters on the wire: none (float32), or int8 with error feedback


@dataclass
class TrainConfig:
    epochs: int = 5
    batch_size: int = 8  # samples a logical client gives to one step
    micro_batches: int = 1  # parts of a batch that cross the cut one by one, for one step on the gradient of all
    lr: float = 1e-3
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    schedule: str = "linear"  # linear, cosine or constant, after the warm-up
    warmup_steps: int = 0
    max_grad_norm: float = 1.0  # clips head and body apart; 0 leaves gradients as they are
    seed: int = 0


@dataclass
class LinkCodecConfig:
    # always; cosine: by sample; activations also error: by position (ours), gradients also sampled: by position (ours);
    # up_activation also once, with down_gradient never: the head stays frozen
    gate: str = "always"
    theta: float = 0.98  # cosine gate: a sample more similar than this to its reference is skipped
    sketch_rows: int = 64  # rows k of the random projection
    rescale: bool = False  # a skipped token's reference is scaled to the token's length along it; 2 bytes a token
    tau: float = 0.1  # error gate: a position whose reference is off by at most this (relative L2) is skipped
    refine: float = 0.8  # error gate: what is sent is quantized to an error of so many tau
    rounding: float = 0.4  # error gate: less than 1 - rounding steps becomes 0; 0.5 rounds to nearest
    basis: bool = True  # error gate: learn a basis from the first rows and tell it: d^2 bytes a client
    noise: float = 0.1  # sampled gate: variance that rounding adds, of the gradients' squared norm
    keep: float = 1.0  # sampled gate: expected share of the positions that is sent, heavy ones before light ones
    predictor: str = "none"  # delta: a sample's later visits cross as changes (gate always)
    quantizer: str = "none"  # none, fp16, int8, channels, low_rank, tiles or an extension's
    bits: int = 4  # an element: of channels, tiles and the factors of low_rank
    low_rank: int = 16  # directions of low_rank
    store_dtype: str = "bfloat16"  # of the references: bfloat16 or float32; error gate also int8
    store: str = "ram"  # error gate: ram, or disk (under the run directory)
    store_rows: int = 0  # error gate: most positions remembered, the least recently visited are forgotten; 0 = all
    options: dict[str, float] = field(default_factory=dict)  # settings of an extension's quantizer


@dataclass
class CodecConfig:
    name: str = "none"
    prefix_sharing: bool = True  # error gate: equal prefixes share references; the server learns which are equal
    up_activation: LinkCodecConfig = field(default_factory=LinkCodecConfig)
    down_activation: LinkCodecConfig = field(default_factory=LinkCodecConfig)  # U-shape only
    up_gradient: LinkCodecConfig = field(default_factory=LinkCodecConfig)  # U-shape only
    down_gradient: LinkCodecConfig = field(default_factory=LinkCodecConfig)


@dataclass
class RestConfig:
    """When heads rest: the server goes on with stored references, and nothing of the head's two links crosses."""

    policy: str = "never"  # never, every_k, freeze_after or gain
    every: int = 2  # every_k: the head trains in one of so many epochs
    epochs: int = 1  # freeze_after: the head trains in so many, tells its final activations, and rests for good
    patience: int = 1  # gain: so many resting epochs without a gain of `least` wake the heads
    least: float = 0.002  # gain: nats of validation loss an epoch that count as a gain


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
    name: str = "fixed"  # fixed, bang_bang, ddpg, byte_budget or an extension's
    activation: Bounds = field(default_factory=lambda: Bounds(0.98, 0.998))  # thresholds of activation links
    gradient: Bounds = field(default_factory=lambda: Bounds(0.8, 0.98))  # and of gradient links
    bang_bang: BangBangConfig = field(default_factory=BangBangConfig)
    ddpg: DdpgConfig = field(default_factory=DdpgConfig)
    byte_budget: ByteBudgetConfig = field(default_factory=ByteBudgetConfig)
    options: dict[str, float] = field(default_factory=dict)  # settings of an extension's controller


@dataclass
class EvalConfig:
    every: int = 1  # epochs between evaluations; the last epoch is always evaluated
    batch_size: int = 16


@dataclass
class TelemetryConfig:
    baseline_dtype: str = "float16"  # what the raw baselines send: float16 or float32
    progress: bool = True
    # curves for tensorboard, wandb or mlflow, by a process beside the aggregator that follows the logs
    writers: list[str] = field(default_factory=list)
    # values of the sketch that is logged of every sample sent, at every visit: 113 bytes and 2 a value; 0 logs none
    sketch: int = 0


@dataclass
class CheckpointConfig:
    every: int = 0  # steps between two; 0: only when the run is asked to stop (SIGTERM, SIGUSR1)
    keep: int = 2  # newest ones that stay


@dataclass
class LinkConfig:
    """A slow link put between every client rank and the others, in the process; 0 leaves a side as it is."""

    up_mbit: float = 0.0  # 10^6 bits a second from a client rank
    down_mbit: float = 0.0  # and to it
    delay_ms: float = 0.0  # one way


@dataclass
class RuntimeConfig:
    timeout_seconds: float = 300.0  # longest silence of a peer before it counts as lost
    device: str = "auto"  # auto: one CUDA device a local rank, in turn, where torch sees any, else the CPU; cpu; cuda
    threads: int = 0  # compute threads a rank; 0 shares the machine's cores among ranks of a role
    # compile gates and quantizers that compute on a rank's device: fewer passes, the same bytes; takes seconds at the
    # first packet and needs a C++ compiler, on a GPU Triton
    compile: bool = False
    link: LinkConfig = field(default_factory=LinkConfig)


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    data: DataConfig = field(default_factory=DataConfig)
    roles: RolesConfig = field(default_factory=RolesConfig)
    fed: FedConfig = field(default_factory=FedConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    rest: RestConfig = field(default_factory=RestConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    # of packets between clients and servers: tcp (clients connect to the server), gloo, nccl (payloads on GPUs), mpi
    # (under mpirun)
    transport: str = "tcp"
    resume: str = "never"  # auto: go on with the run in --out, if there is one
    extensions: list[str] = field(default_factory=list)  # Python files or modules to import first (docs/extending.md)


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

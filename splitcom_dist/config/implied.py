"""What follows from a configuration: which links have a threshold, keys or gradients."""

from splitcom_dist.config.schema import Bounds, Config, LinkCodecConfig, lookup
from splitcom_dist.links import links_of


def head_trains(config: Config) -> bool:
    """Whether a gradient ever comes down to the clients' heads."""
    never = config.rest.policy == "freeze_after" and config.rest.epochs == 0
    return config.codec.down_gradient.gate != "never" and not never


def cuts_move(config: Config) -> bool:
    """Whether a client's cut may be another after a round."""
    return config.fed.cuts.policy != "static"


def names_samples(config: Config) -> bool:
    """Whether a server keeps the list of a client's samples: for keys of their positions, or to go on without it."""
    return bool(keyed_links(config)) or config.rest.policy != "never"


def gated_links(config: Config) -> list[str]:
    """The links of the run's shape whose gate has a threshold, in the order of a step."""
    links = links_of(config.model.tail_layers)
    return [link for link in links if lookup(config.codec, link).gate in ("cosine", "error")]


def threshold_of(codec: LinkCodecConfig) -> float:
    """A link's threshold as a cosine: at equal norms a relative error tau is a cosine of 1 - tau^2 / 2."""
    return 1 - codec.tau**2 / 2 if codec.gate == "error" else codec.theta


def keyed_links(config: Config) -> list[str]:
    """The links of the run's shape whose references are kept by position, so that batches need keys."""
    links = links_of(config.model.tail_layers)
    return [link for link in links if lookup(config.codec, link).gate == "error"]


def stays_on_device(codec: LinkCodecConfig) -> bool:
    """Whether a link's codec computes where the activation is: gate by sample or none, and no more than arithmetic.

    The others go through the host: entropy coders and keyed stores (gates error and sampled), seeded draws and
    factorisations (channels, low_rank), tiles.
    """
    return codec.gate in ("always", "once", "cosine", "never") and codec.quantizer in ("none", "fp16", "int8")


def may_overlap(config: Config) -> bool:
    """Whether a step can run ahead and still come to the same adapters: clients of the U-shape draw the noise of heads
    and tails from one generator."""
    draws = config.model.dropout > 0 or config.lora.dropout > 0
    return config.transport != "nccl" and not (draws and config.model.tail_layers)


def bounds_of(config: Config, link: str) -> Bounds:
    """Between what a controller moves the threshold of a link."""
    return config.control.activation if link.endswith("activation") else config.control.gradient

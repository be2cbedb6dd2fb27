"""Keys about what crosses the cut, codecs, thresholds and transports, that contradict each other."""

from splitcom_dist.config.implied import gated_links, may_overlap, stays_on_device
from splitcom_dist.config.ranges import is_added
from splitcom_dist.config.schema import Config, LinkCodecConfig, LinkConfig, lookup
from splitcom_dist.errors import UserError
from splitcom_dist.links import LINKS, links_of


def check_crossing(config: Config) -> None:
    """Raise UserError for the first contradiction; names the key and the mend."""
    thetas = [f"codec.{link}.theta" for link in LINKS]
    bounds = [f"control.{kind}.{bound}" for kind in ("activation", "gradient") for bound in ("low", "high")]
    for key in (*thetas, *bounds):
        if not -1 <= lookup(config, key) <= 1:
            raise UserError(f"{key}={lookup(config, key)}: a cosine lies between -1 and 1")
    for low, high in (bounds[:2], bounds[2:], ("control.bang_bang.release", "control.bang_bang.tolerance")):
        if lookup(config, low) > lookup(config, high):
            raise UserError(f"{low}={lookup(config, low)}: must not exceed {high}={lookup(config, high)}")
    if config.control.options and not is_added("control.name", config.control.name):
        raise UserError(f"control.options: are an extension's controller's, and name={config.control.name} is none")
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
    if config.transport == "nccl":
        _check_nccl(config)
    if config.roles.overlap in ("transfers", "full") and not may_overlap(config):
        raise UserError(
            f"roles.overlap={config.roles.overlap}: not with transport=nccl, which has one transfer under way at a "
            "time, nor in the U-shape with dropout, whose noise depends on the order; set roles.overlap=none"
        )


def _check_link(name: str, codec: LinkCodecConfig) -> None:
    matrices = ("channels", "low_rank")
    if codec.options and not is_added(f"{name}.quantizer", codec.quantizer):
        raise UserError(f"{name}.options: are an extension's quantizer's, and quantizer={codec.quantizer} is none")
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


def _check_nccl(config: Config) -> None:
    if config.runtime.device == "cpu":
        raise UserError(
            "transport=nccl: with runtime.device=cpu there is nothing on a GPU to send; set runtime.device=cuda or "
            "transport=tcp"
        )
    if config.runtime.link != LinkConfig():
        raise UserError("runtime.link: holds back what is in host memory, not what NCCL sends; set transport=tcp")
    links = [lookup(config.codec, link) for link in links_of(config.model.tail_layers)]
    if not any(stays_on_device(link) and link.gate != "never" for link in links):
        raise UserError(
            f"transport=nccl: codec {config.codec.name} makes all its packets in host memory; set transport=tcp or "
            "mpi, or a codec of none, fp16, int8 or splitcom"
        )

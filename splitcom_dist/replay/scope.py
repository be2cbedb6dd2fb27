"""What can be replayed on a link, and what its logs do not hold."""

from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.errors import UserError
from splitcom_dist.replay.packets import follows_from_counts


def is_kept(logged: LinkCodecConfig, wanted: LinkCodecConfig) -> bool:
    """Whether a link's packets stay as they were: nothing decides there, and nothing else changes."""
    return wanted == logged and wanted.gate != "cosine"


def check_link(link: str, logged: LinkCodecConfig, wanted: LinkCodecConfig, sketched: bool) -> None:
    """Raise UserError, one line, if a link cannot be replayed with the codec `wanted`."""
    if is_kept(logged, wanted):
        return
    name = f"codec.{link}"
    if not follows_from_counts(wanted):
        reason = "its references are by position, the logs' by sample" if wanted.gate == "error" else "as it was only"
        raise UserError(
            f"{name}.gate={wanted.gate}, quantizer={wanted.quantizer}: {reason}; replay gate cosine or always with "
            "quantizer none, fp16, int8 or tiles"
        )
    if logged.gate in ("once", "never"):
        raise UserError(f"{name}.gate={logged.gate} in the logs: the run has computed no values there to replay")
    if wanted.rescale and not logged.rescale:
        raise UserError(f"{name}.rescale: the run has not logged how near rescaled references are; replay without it")
    if logged.rescale and not wanted.rescale and not sketched:
        raise UserError(f"{name}.rescale: the run logged similarities to rescaled references alone; replay with it")
    if wanted.gate == "cosine" and logged.gate != "cosine" and not sketched:
        raise UserError(
            f"{name}.gate={logged.gate} in the logs, and no sketches: nothing tells how near its samples came to "
            "references; log them with telemetry.sketch=256"
        )

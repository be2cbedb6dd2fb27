"""Where the codec of a link computes and how, and where its payload lies when it crosses."""

from dataclasses import dataclass

import torch

from splitcom_dist.config.implied import stays_on_device
from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.devices import HOST


@dataclass(frozen=True)
class Residence:
    """`compute` is where rows are encoded and references kept, `payload` where scales and symbols meet the transport;
    `fused` is whether what is computed there is compiled.

    Both ends of a link must agree on whether payloads are in host memory, and on nothing else.
    """

    compute: torch.device = HOST
    payload: torch.device = HOST
    fused: bool = False

    @property
    def apart(self) -> bool:
        """Whether payloads cross from device to device, apart from the rest of their packet."""
        return self.payload.type != "cpu"


ON_HOST = Residence()


def residence_of(codec: LinkCodecConfig, device: torch.device, transport: str, fused: bool = False) -> Residence:
    """Of one link on a rank that computes on `device`.

    Codecs with a stage on the host are wholly there: the rows are copied once, and so is what comes out.
    """
    if not stays_on_device(codec):
        return ON_HOST
    return Residence(device, device if transport == "nccl" else HOST, fused)

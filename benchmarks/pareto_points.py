"""The operating points that benchmarks/pareto.py compares: edit the list here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from zlib import crc32

from splitcom_dist.links import LINKS

SHAPES = ("standard", "u_shape")
ACTIVATIONS = tuple(link for link in LINKS if link.endswith("activation"))
GRADIENTS = tuple(link for link in LINKS if link.endswith("gradient"))
BASELINE = "none"
FROZEN_VIDEO = (
    "frozen + video"  # the head never trains, and what it sends once is coded as video: a corner of the front
)
FRONT = ("video", "video, rests", FROZEN_VIDEO)


@dataclass(frozen=True)
class Point:
    """A preset and overrides; keys of links that a shape lacks mean nothing there."""

    method: str
    label: str
    codec: str
    settings: Mapping[str, object] = field(default_factory=dict)
    u_shape_codec: str | None = None  # None: the same preset in both shapes
    marks: str = "common"  # which tasks train it, in words; the texts of `chosen` ones are scored

    def overrides(self, shape: str) -> list[str]:
        """What follows the configuration file on the command line."""
        codec = self.u_shape_codec if shape == "u_shape" and self.u_shape_codec else self.codec
        adapters = (
            [] if self.method == BASELINE else ["fed.adapter_quantizer=int8"]
        )  # codecs are compared, not adapters
        return [
            f"shape={shape}",
            f"codec={codec}",
            *adapters,
            *(f"{key}={value}" for key, value in self.settings.items()),
        ]

    @property
    def folder(self) -> str:
        """A name that changes with the settings, so that runs of older ones are not taken for these."""
        code = crc32(repr((self.overrides("standard"), self.overrides("u_shape"))).encode())
        return f"{self.method}-{code:08x}".replace(" ", "").replace(",", "-")


def links(kind: tuple[str, ...], key: str, value: object) -> dict[str, object]:
    return {f"codec.{link}.{key}": value for link in kind}


def splitcom(bits: str, theta: float, up_gradient: float, down_gradient: float, marks: str = "common") -> Point:
    """`theta` of activations; in the U-shape gradients are gated too."""
    settings = links(ACTIVATIONS, "theta", theta)
    settings |= {"codec.up_gradient.theta": up_gradient, "codec.down_gradient.theta": down_gradient}
    name = "SplitCom INT8" if bits else "SplitCom"
    return Point(name, f"θ {theta:g}", f"splitcom{bits}", settings, f"splitcom_all{bits}", marks=marks)


def video(tau: float, noise: float, keep: float = 1, marks: str = "common") -> Point:
    settings = links(ACTIVATIONS, "tau", tau) | links(GRADIENTS, "noise", noise)
    if keep == 1:
        return Point("video", f"τ {tau:g}, noise {noise:g}", "video", settings, marks=marks)
    settings |= links(GRADIENTS, "keep", keep)
    return Point("video", f"τ {tau:g}, noise {noise:g}, keep {keep:g}", "video", settings, marks=marks)


def rests(label: str, rest: Mapping[str, object], method: str = "video, rests", marks: str = "common") -> Point:
    """video at tau 0.1, noise 0.3, with heads that rest."""
    settings = links(ACTIVATIONS, "tau", 0.1) | links(GRADIENTS, "noise", 0.3)
    settings |= {f"rest.{key}": value for key, value in rest.items()}
    return Point(method, label, "video", settings, marks=marks)


POINTS = [
    Point(BASELINE, "FP32", "none", marks="common chosen large"),
    Point("frozen", "FP16 once", "frozen", marks="common chosen large"),
    splitcom("", 0.98, 0.98, 0.95),
    splitcom("_int8", 0.955, 0.955, 0.9),
    splitcom("_int8", 0.98, 0.98, 0.95, marks="common chosen large"),
    Point("AQ-SGD", "fw4 bw8", "aqsgd", marks="common chosen large"),
    Point("SplitLite", "ranks 2r, 4r", "splitlite"),
    Point("TAH-Quant", "4 and 6 bit", "tah", marks="common large"),
    video(0.02, 0.01),
    video(0.03, 0.1),
    video(0.03, 0.3),
    video(0.05, 0.03),
    video(0.1, 0.1, marks="common chosen"),
    video(0.2, 0.3),
    video(0.05, 0.3, marks="large"),
    video(0.05, 0.3, keep=0.25, marks="large"),
    video(0.05, 1, keep=0.25, marks="large"),
    rests("never trains", {"policy": "freeze_after", "epochs": 0}, FROZEN_VIDEO, marks="common chosen large"),
    rests("freeze after 2", {"policy": "freeze_after", "epochs": 2}, marks="common chosen"),
    rests("freeze after 5", {"policy": "freeze_after", "epochs": 5}, marks="common chosen"),
    rests("every 2", {"policy": "every_k", "every": 2}),
    rests("gain", {"policy": "gain"}, marks="common chosen"),
]

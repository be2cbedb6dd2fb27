"""The directed flows across the cut, with the codes that stand for them in packets and logs."""

LINKS = ("up_activation", "down_gradient", "down_activation", "up_gradient")
LINK_CODES = {name: code for code, name in enumerate(LINKS)}
STANDARD = ("up_activation", "down_gradient")
U_SHAPE = ("up_activation", "down_activation", "up_gradient", "down_gradient")  # in the order of a step


def links_of(tail_layers: int) -> tuple[str, ...]:
    """The links of a shape, in the order of a step."""
    return U_SHAPE if tail_layers else STANDARD


def is_upward(link: str) -> bool:
    """Whether clients send on it."""
    return link.startswith("up_")

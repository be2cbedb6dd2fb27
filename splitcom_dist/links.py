"""The directed flows across the cut, with the codes that stand for them in packets and logs."""

LINKS = ("up_activation", "down_gradient", "down_activation", "up_gradient")
LINK_CODES = {name: code for code, name in enumerate(LINKS)}

"""A transport's exceptions, told in the words of the layout."""

from collections.abc import Iterator
from contextlib import contextmanager

from splitcom_dist.errors import PeerLost


@contextmanager
def naming(who: str, what: str) -> Iterator[None]:
    """Turn the backend's RuntimeError into PeerLost: `rank 3 (server): closed its connection during ...`."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        reason = "was silent for longer than runtime.timeout_seconds" if "imed out" in text else "is gone"
        raise PeerLost(f"{who} {reason} during {what}") from error

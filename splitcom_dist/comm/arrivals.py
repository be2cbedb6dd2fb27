"""Which of several edges have a packet here: whoever serves their clients takes those first that have come."""

import threading
import time
from collections.abc import Sequence

from splitcom_dist.comm.link import Edge
from splitcom_dist.openmp import rest_workers


class Arrivals:
    """Of edges that run ahead; `window` is how long, in seconds, the first to come may be kept waiting for others."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._bell = threading.Event()

    def attend(self, edge: Edge) -> None:
        """Hear when a packet has come over this edge; call it before one is expected."""
        edge.bell = self._bell

    def wait(self, edges: Sequence[Edge]) -> list[Edge]:
        """Those with a packet here, or with a failure to tell, as soon as all have one or the window is over; at least
        one. A packet must be due on each.

        It ends without a timeout of its own: what receives in the background has one, and tells.
        """
        closes = None
        while True:
            self._bell.clear()
            here = [edge for edge in edges if edge.has_arrived]
            now = time.perf_counter()
            if here and closes is None:
                closes = now + self._window
            if closes is None:
                rest_workers()
                self._bell.wait()
            elif len(here) == len(edges) or now >= closes:
                return here
            else:
                self._bell.wait(closes - now)

"""What can go wrong, as one line a person can act on."""

from collections.abc import Iterator
from contextlib import contextmanager


class SplitcomError(Exception):
    """An error whose message is the whole report: one line naming key, file or peer, and the mend."""


class UserError(SplitcomError):
    """A mistake in configuration, data or environment; every rank leaves with exit code 2."""


@contextmanager
def needing(extra: str, command: str) -> Iterator[None]:
    """Around the imports of a command that needs an optional part of the package; UserError if it is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise UserError(f"{command} needs {package}: pip install 'splitcom-dist[{extra}]'") from None


class WireError(SplitcomError):
    """A packet that must not be believed; names peer, link, step and field. The store is unchanged."""


class Stopped(Exception):  # no error: nothing went wrong
    """All ranks were asked to stop, have saved their state after `step`, and leave."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class RunOver(Exception):  # no error either
    """A rank that has come back finds that the others leave, all with the exit code `code`."""

    def __init__(self, code: int) -> None:
        super().__init__("the run is over")
        self.code = code


class PeerLost(SplitcomError):
    """Peers closed their connection or were silent for too long; `ranks` are those that were waited for."""

    def __init__(self, message: str, ranks: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.ranks = ranks

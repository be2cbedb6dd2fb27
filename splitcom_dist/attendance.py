"""When the clients' heads train, tell and rest: by epoch, the same on every rank."""

from enum import Enum

from splitcom_dist.config.schema import RestConfig
from splitcom_dist.state import State, facts, read_facts


class Mode(Enum):
    """What a head does in an epoch."""

    TRAIN = "train"  # activations go up, gradients come down
    TELL = "tell"  # activations go up, so that the server's references are the head's last word
    REST = "rest"  # nothing crosses: the server goes on with its references


class Attendance:
    """The mode of every epoch: a function of the epoch, or for the policy `gain` what the verdicts have said so far."""

    def __init__(self, rest: RestConfig) -> None:
        self._rest = rest
        self._told = Mode.TRAIN

    def mode(self, epoch: int) -> Mode:
        """Of an epoch; for `gain` of the current one alone."""
        rest = self._rest
        if rest.policy == "every_k":
            return Mode.REST if epoch % rest.every else Mode.TRAIN
        if rest.policy == "freeze_after":
            return Mode.TRAIN if epoch < rest.epochs else Mode.TELL if epoch == rest.epochs else Mode.REST
        return self._told

    def state(self) -> State:
        return {"facts": facts({"told": self._told.value})}

    def load(self, state: State) -> None:
        self._told = Mode(read_facts(state["facts"])["told"])

    def hear(self, mode: Mode) -> None:
        """A verdict: the mode from the next step on."""
        self._told = mode

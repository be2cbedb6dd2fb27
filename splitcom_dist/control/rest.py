"""The policy `gain`: heads train while that lowers the validation loss by more a byte than letting them rest does."""

import math

from splitcom_dist.attendance import Mode
from splitcom_dist.config.schema import RestConfig
from splitcom_dist.control.controller import Observation
from splitcom_dist.state import State, facts, read_facts

REMEMBERED = ("_loss", "_epoch", "_resting_rate", "_rested_gain", "_rested_bytes", "_dry", "_bytes")


class Gain:
    """Decides after every evaluation what heads do until the next.

    While they rest only the server's adapter and reports cross, so its gain a byte is high as long as it gains at all:
    heads rest as soon as every sample has a reference, wake when the server's gain dries up (`patience` times below
    `least` nats), and rest again when their own gain a byte falls below that of the last rest. The rule is ours.
    """

    def __init__(self, config: RestConfig) -> None:
        self._config = config
        self._mode = Mode.TRAIN
        self._loss = math.nan
        self._epoch = -1
        self._resting_rate = math.inf  # nats a byte of the last rest; at first worth a try
        self._rested_gain, self._rested_bytes = 0.0, 0
        self._dry = 0
        self._bytes = 0  # since the last evaluation

    def decide(self, observation: Observation) -> tuple[Mode, str]:
        """The mode from now on, and why; between evaluations it stays."""
        self._bytes += observation.wire_bytes
        if observation.validation_loss is None:
            return self._mode, ""
        gain, spent = self._loss - observation.validation_loss, max(1, self._bytes)
        epochs = observation.epoch - self._epoch
        self._loss, self._epoch, self._bytes = observation.validation_loss, observation.epoch, 0
        if math.isnan(gain):
            return self._mode, "heads begin"
        if self._mode is Mode.REST:
            return self._after_rest(gain, spent, epochs)
        rate = gain / spent
        told = f"{gain:+.4f} nats for {spent / 1e6:.2f} MB"
        if rate >= self._resting_rate:
            return self._mode, f"heads train on: {told} is more a byte than the last rest"
        self._mode = Mode.REST
        self._rested_gain, self._rested_bytes, self._dry = 0.0, 0, 0
        return self._mode, f"heads rest: {told} is less a byte than a rest"

    def state(self) -> State:
        told = {name: getattr(self, name) for name in REMEMBERED}
        return {"facts": facts(told | {"_mode": self._mode.value})}

    def load(self, state: State) -> None:
        for name, value in read_facts(state["facts"]).items():
            setattr(self, name, Mode(value) if name == "_mode" else value)

    def _after_rest(self, gain: float, spent: int, epochs: int) -> tuple[Mode, str]:
        self._rested_gain += gain
        self._rested_bytes += spent
        self._resting_rate = self._rested_gain / self._rested_bytes
        self._dry = self._dry + 1 if gain < self._config.least * epochs else 0
        if self._dry < self._config.patience:
            return self._mode, f"heads rest on: the server gained {gain:+.4f} nats"
        self._mode = Mode.TRAIN
        return self._mode, f"heads wake: the server gained {gain:+.4f} nats, {self._dry} times too little"

"""What one run of one method came to, how it is read from the marks that a program writes, and lines counted."""

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peers_parties import Parties

LIMIT = 3600.0  # seconds that a run may take


@dataclass(frozen=True)
class Outcome:
    tokens_per_second: float  # input positions without padding, from the end of the first epoch to that of the last
    loss: float  # nats a target token of held-out text, at the end; NaN where the program does not tell
    seconds: float  # from the first process started to the last that matters ended
    sent: int  # bytes that left the parties
    memory_sum: int  # largest of all processes together, bytes
    memory_largest: int  # of one process
    own_count: int | None = None  # bytes that the program itself counted
    computing: float | None = None  # share of the time after the first epoch that clients trained, where they tell


def outcome(parties: Parties, seconds: float, rate: float, loss: float, own_count: int | None = None) -> Outcome:
    """Of a run that has just ended, its parties still there."""
    sent, memory = sum(parties.sent().values()), parties.memory
    return Outcome(rate, loss, seconds, sent, memory.largest_sum, memory.largest_process, own_count)


def read_marks(path: Path, epoch_tokens: int) -> tuple[float, float]:
    """Tokens a second after the first round, and the last loss, of lines like {"round": 1, "time": 1.5, "loss": 3.2}.

    Raises ValueError where the file does not tell of two rounds.
    """
    marks = [json.loads(line) for line in path.read_text().splitlines()]
    times = {mark["round"]: mark["time"] for mark in marks if mark["round"] > 0}
    if len(times) < 2:
        raise ValueError(f"{path}: marks of {len(times)} rounds, two are needed")
    rounds, seconds = max(times) - min(times), times[max(times)] - times[min(times)]
    return rounds * epoch_tokens / seconds, marks[-1].get("loss", float("nan"))


def lines_of_code(paths: Sequence[Path]) -> int:
    """Lines that are neither blank nor comment nor docstring."""
    return sum(_lines(path) for path in paths)


def _lines(path: Path) -> int:
    text = path.read_text(encoding="utf-8")
    written = {n for n, line in enumerate(text.splitlines(), 1) if line.strip() and not line.strip().startswith("#")}
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                written -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(written)

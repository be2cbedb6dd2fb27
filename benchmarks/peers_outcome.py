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
    loss: float | None  # nats a target token of held-out text, at the end, where the program tells
    seconds: float  # from the first process started to the last that matters ended
    sent: int  # bytes that left the parties
    memory_sum: int  # largest of all processes together, bytes
    memory_largest: int  # of one process
    own_count: int | None = None  # bytes that the program itself counted
    training: float | None = None  # share of the time of tokens_per_second in clients' training loops, if they tell


@dataclass(frozen=True)
class Course:
    """What a program noted of itself: as in Outcome."""

    tokens_per_second: float
    loss: float | None
    training: float | None = None


def outcome(parties: Parties, seconds: float, course: Course, own_count: int | None = None) -> Outcome:
    """Of a run that has just ended, its parties still there."""
    sent, memory = sum(parties.sent().values()), parties.memory
    sizes = (sent, memory.largest_sum, memory.largest_process)
    return Outcome(course.tokens_per_second, course.loss, seconds, *sizes, own_count, course.training)


def read_marks(path: Path, epoch_tokens: int) -> Course:
    """Of lines {"round": N, "time": S} at the end of each round, and one {"loss": L, "training": S} at the end of all.

    `training`, which may be missing, are the seconds after the first round that a client trained, not those between.
    Raises ValueError where the file does not tell of two rounds.
    """
    marks = [json.loads(line) for line in path.read_text().splitlines()]
    times = {mark["round"]: mark["time"] for mark in marks if mark.get("round", 0) > 0}
    if len(times) < 2:
        raise ValueError(f"{path}: marks of {len(times)} rounds, two are needed")
    rounds, seconds = max(times) - min(times), times[max(times)] - times[min(times)]
    trained = marks[-1].get("training")
    share = None if trained is None else trained / seconds
    return Course(rounds * epoch_tokens / seconds, marks[-1].get("loss"), share)


def lines_of_code(paths: Sequence[Path]) -> int:
    """Lines that are neither blank nor comment nor docstring."""
    return sum(_lines(path) for path in paths)


def _lines(path: Path) -> int:
    text = path.read_text(encoding="utf-8")
    written = {n for n, line in enumerate(text.splitlines(), 1) if line.strip() and not line.strip().startswith("#")}
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                written -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(written)

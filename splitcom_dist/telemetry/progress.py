"""Live progress on one rank: a bar on a terminal, plain lines elsewhere, nothing where it is switched off."""

import math
import sys
import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column

LINE_SECONDS = 10.0  # between two plain lines inside an epoch


class Progress(Protocol):
    def start(self, total_steps: int, epochs: int) -> None: ...

    def step(self, step: int, epoch: int, loss: float, tokens: int, wire_bytes: int) -> None: ...

    def evaluated(self, epoch: int, ppl: float) -> None: ...

    def close(self) -> None: ...


def make_progress(shown: bool, console: Console | None = None) -> Progress:
    """The kind of progress that fits where standard output goes."""
    if not shown:
        return Silent()
    console = console or Console(file=sys.stdout)
    return Live(console) if console.is_terminal else Lines(console)


class Silent:
    """No progress: for ranks that do not show any, and for tests."""

    def start(self, total_steps: int, epochs: int) -> None: ...

    def step(self, step: int, epoch: int, loss: float, tokens: int, wire_bytes: int) -> None: ...

    def evaluated(self, epoch: int, ppl: float) -> None: ...

    def close(self) -> None: ...


class Tracker:
    """Smoothed figures that both shown kinds need."""

    def __init__(self) -> None:
        self.total_steps = self.epochs = 0
        self.loss, self.tokens, self.since = math.nan, 0, time.monotonic()
        self.rate = 0.0
        self.wire_bytes = 0

    def update(self, step: int, loss: float, tokens: int, wire_bytes: int) -> None:
        self.loss = loss if math.isnan(self.loss) else 0.9 * self.loss + 0.1 * loss  # a resumed run begins anew
        self.tokens += tokens
        self.rate = self.tokens / max(1e-9, time.monotonic() - self.since)
        self.wire_bytes = wire_bytes

    def text(self) -> str:
        megabytes = f"{self.wire_bytes / 1e6:,.1f} MB wire"
        loss = "" if math.isnan(self.loss) else f"loss {self.loss:.3f}  "  # in the U-shape the server knows none
        return f"{loss}{self.rate:,.0f} tokens/s  {megabytes}"


class Live(Tracker):
    """A bar that redraws in place; perplexities scroll by above it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self.bar = Bar(
            TextColumn("epoch {task.fields[epoch]}", table_column=whole()),
            BarColumn(bar_width=None),  # what is left
            MofNCompleteColumn(table_column=whole()),
            TextColumn("{task.fields[text]}", table_column=whole()),
            TimeRemainingColumn(compact=True, table_column=whole()),
            TextColumn("left", table_column=whole()),
            console=console,
            refresh_per_second=4,
        )

    def start(self, total_steps: int, epochs: int) -> None:
        self.total_steps, self.epochs, self.since = total_steps, epochs, time.monotonic()
        self.task = self.bar.add_task("", total=total_steps, epoch=f"1/{epochs}", text="")
        self.bar.start()

    def step(self, step: int, epoch: int, loss: float, tokens: int, wire_bytes: int) -> None:
        self.update(step, loss, tokens, wire_bytes)
        self.bar.update(self.task, completed=step + 1, epoch=f"{epoch + 1}/{self.epochs}", text=self.text())

    def evaluated(self, epoch: int, ppl: float) -> None:
        if epoch < 0:
            self.since = time.monotonic()
        when = f"epoch {epoch + 1}" if epoch >= 0 else "before training"
        self.bar.console.print(f"{when}: perplexity {ppl:.2f}", highlight=False)

    def close(self) -> None:
        self.bar.stop()


def whole() -> Column:
    """Of text that is not cut off for the bar's sake."""
    return Column(no_wrap=True)


class Lines(Tracker):
    """One line a few seconds and one an evaluation: what a batch system's log wants."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self.last_line = time.monotonic()

    def start(self, total_steps: int, epochs: int) -> None:
        self.total_steps, self.epochs, self.since = total_steps, epochs, time.monotonic()

    def step(self, step: int, epoch: int, loss: float, tokens: int, wire_bytes: int) -> None:
        self.update(step, loss, tokens, wire_bytes)
        if time.monotonic() - self.last_line > LINE_SECONDS:
            self._print(f"step {step + 1}/{self.total_steps}  epoch {epoch + 1}/{self.epochs}  {self.text()}")

    def evaluated(self, epoch: int, ppl: float) -> None:
        if epoch < 0:
            self._print(f"before training  perplexity {ppl:.2f}")
            self.since = time.monotonic()
        else:
            self._print(f"epoch {epoch + 1}/{self.epochs}  perplexity {ppl:.2f}  {self.text()}")

    def close(self) -> None: ...

    def _print(self, line: str) -> None:
        self.last_line = time.monotonic()
        self.console.print(line, highlight=False, soft_wrap=True)
        self.console.file.flush()

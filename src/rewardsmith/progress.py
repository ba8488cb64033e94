"""Progress on standard error: a bar with time left in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_EVERY_S = 15.0  # between two lines where standard error is a file or a pipe


class Bar:
    """`with Bar("training", total=38) as bar: bar.advance(note="loss 0.61")`. total None: unknown length."""

    def __init__(self, what: str, total: int | None = None, *, done: int = 0, quiet: bool = False) -> None:
        self.what, self.total, self.done, self.quiet = what, total, done, quiet
        self.first = done
        self.live: Progress | None = None
        self.started = self.told = time.monotonic()

    def __enter__(self) -> Bar:
        console = Console(stderr=True)
        if not self.quiet and console.is_terminal:
            self.live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self.live.start()
            self.task = self.live.add_task(self.what, total=self.total, completed=self.done, note="")
        return self

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        if self.quiet:
            return
        if self.live is not None:
            self.live.update(self.task, advance=n, note=note)
        elif time.monotonic() - self.told >= PLAIN_EVERY_S or self.done == self.total:
            self.told = time.monotonic()
            say(f"{self.what} {self.done}{self._of()} {note}{self._left()}")

    def _of(self) -> str:
        return "" if self.total is None else f"/{self.total}"

    def _left(self) -> str:
        new = self.done - self.first
        if self.total is None or not new or self.done >= self.total:
            return ""
        left = (time.monotonic() - self.started) / new * (self.total - self.done)
        return f", {clock(left)} left"

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live is not None:
            self.live.stop()


def say(text: str) -> None:
    """A line for people, on standard error."""
    print(text, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """7 s, 3 min 05 s, 2 h 10 min."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    return f"{s // 60} min {s % 60:02d} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60:02d} min"

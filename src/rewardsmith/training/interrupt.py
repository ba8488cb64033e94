"""Ctrl-C and SIGTERM ask a run to stop when its step is done."""

from __future__ import annotations

import signal
from typing import Any, Protocol


class Interruptible(Protocol):
    """What can be asked to stop."""

    interrupted: bool

    def tell(self, text: str) -> None: ...


class InterruptGuard:
    """The first Ctrl-C (or SIGTERM) asks the loop to save and stop; a second Ctrl-C stops at once."""

    def __init__(self, run: Interruptible) -> None:
        self.run = run
        self.old: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.old[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: the caller's business
                return

    def _handle(self, number: int, _: Any) -> None:
        if self.run.interrupted:
            raise KeyboardInterrupt
        self.run.interrupted = True
        self.run.tell("stopping after this step; the state will be saved (Ctrl-C again stops at once)")

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)

"""Follow a pointer: serve what it points to, and change over when it points elsewhere.

The pointer is asked in a thread of its own, and what it points to is loaded and warmed up beside the model that is
served, as with a reload: no request waits for it, and none is dropped. What cannot be loaded is said once, and tried
again after a while, as a file may be on its way; until then the old model stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rewardsmith.errors import RewardsmithError
from rewardsmith.progress import say
from rewardsmith.serving.refusals import Refusal

if TYPE_CHECKING:
    from rewardsmith.serving.service import Service

AGAIN_AFTER_S = 60.0  # what was refused is tried again


class Follow:
    """`current()` names what should be served, as `Engine.release` does; None: nothing yet."""

    def __init__(
        self, current: Callable[[], str | None], seconds: float = 2.0, *, again_after: float = AGAIN_AFTER_S
    ) -> None:
        self.current, self.seconds, self.again_after = current, seconds, again_after
        self.refused: str | None = None
        self.again_at = 0.0
        self.said = ""

    async def run(self, service: Service) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self.seconds)
            if service.ready:
                await self.look(service)

    async def look(self, service: Service) -> None:
        """Look once, and have another model loaded where the pointer has moved."""
        try:
            wanted = await asyncio.get_running_loop().run_in_executor(None, self.current)
        except (RewardsmithError, OSError) as error:
            self._say(f"cannot see what is released, the model stays as it was: {error}")
            return
        self.said = ""
        if wanted is None or wanted == service.engine.release:
            self.refused = None
            return
        if wanted == self.refused and time.monotonic() < self.again_at:
            return
        self.refused, self.again_at = wanted, time.monotonic() + self.again_after
        try:
            await service.reload()
            self.refused = None
        except Refusal:
            pass  # said already
        except Exception as error:  # whatever a release does to its loading, the next one is to be seen
            say(f"the model stays as it was: {type(error).__name__}: {' '.join(str(error).split())}")

    def _say(self, text: str) -> None:
        if text != self.said:
            self.said = text
            say(" ".join(text.split()))

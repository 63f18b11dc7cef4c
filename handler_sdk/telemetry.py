"""What a worker tells of itself besides its signs of life, which do not wait for it: figures, and what it prints."""

import asyncio
import json
import logging
import secrets
import time
from contextlib import suppress

from .figures import SECONDS, of_this_machine
from .links import Membership, Told
from .output import Output

logger = logging.getLogger("runlane.worker")

TELL_SECONDS = 0.5
# After what was not heard.
PAUSE_SECONDS = 5.0
# The last lines are given up after so long.
FLUSH_SECONDS = 3.0


class Telemetry:
    """Of one worker."""

    def __init__(self, output: Output | None) -> None:
        """`output`: what is printed; None when that is not told."""
        self._output = output
        self._figures_at = -SECONDS
        self._run = secrets.token_hex(4)
        self._telling = asyncio.Lock()

    async def run(self, membership: Membership) -> None:
        """Tells what there is to tell, now and then, for as long as it runs. A fault ends this, and not the worker."""
        of_this_machine()
        try:
            while True:
                await asyncio.sleep(TELL_SECONDS)
                if not await self._tell(membership):
                    await asyncio.sleep(PAUSE_SECONDS)
        except Exception:
            logger.exception("no more figures and lines are told")

    async def flush(self, membership: Membership) -> None:
        """Tells what was printed last, as far as that is possible in a few seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._tell(membership, final=True)

    async def _tell(self, membership: Membership, final: bool = False) -> bool:
        """False when nobody has heard it."""
        async with self._telling:
            lines = self._output.lines(final) if self._output is not None else []
            figures, now = "", time.monotonic()
            if now - self._figures_at >= SECONDS and (newest := of_this_machine().newest()) is not None:
                figures = json.dumps(newest)
            if not lines and not figures:
                return True
            first = lines[0].number if lines else 1
            ages = [(max(0, round((now - line.at) * 1000)), line.stream, line.text) for line in lines]
            if not await membership.tell(Told(figures, self._run, first, ages)):
                return False
            if figures:
                self._figures_at = now
            if lines and self._output is not None:
                self._output.heard(lines[-1].number)
            return True

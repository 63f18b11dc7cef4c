"""A job in the worker's hands."""

import asyncio
from dataclasses import dataclass

from .delivery import Delivery
from .links import Attempt


@dataclass
class Held:
    """From the moment it was taken until its result is delivered or given up.

    told: what the handler's process is to be told of it; None once that has happened. is_run: the handler is done with
    it. stopping: it was told to stop, so nothing that it says counts any more.
    """

    number: int
    attempt: Attempt
    delivery: Delivery
    told: bytes | None
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    stopping: bool = False
    is_run: bool = False

    def end_run(self) -> None:
        self.is_run = True
        if self.timer is not None:
            self.timer.cancel()

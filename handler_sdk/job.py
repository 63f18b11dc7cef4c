"""A job in the handler's process."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from .delivery import BATCH_SECONDS, Delivery
from .home import Home
from .links import Attempt, Link
from .runners import HandlerConfig, Run
from .window import Window

# Chunks of one job that are not yet in the store, in bytes, at most.
WINDOW = 8 * 1024 * 1024


class Job:
    """From its begin until all that is to be known of it is in the store: its run by the handler, and its delivery.

    is_run: the handler is done with it.
    """

    def __init__(
        self,
        attempt: Attempt,
        fields: dict[str, Any],
        config: HandlerConfig,
        link: Link,
        home: Home,
        on_over: Callable[[str], None],
    ) -> None:
        """See `Run` and `Delivery`."""
        self.attempt = attempt
        self.is_run = False
        self.run = Run(config, fields, self, link.limits, link.worker)
        self._window = Window(WINDOW)
        self.delivery = Delivery(link, attempt, self._window.give, on_over)
        self._home = home
        self._waited_at = 0.0

    def send(self, chunk: bytes) -> None:
        """Delivers a chunk, from a thread of the handler's."""
        self._window.take(len(chunk), lambda: self.run.stopping)
        self._send_from_elsewhere(chunk)

    async def send_async(self, chunk: bytes) -> None:
        """Delivers a chunk, from a task of the handler's, in whatever loop."""
        await self._window.take_async(len(chunk))
        if self._home.is_here:
            self.delivery.add_chunk(chunk)
            await asyncio.sleep(0)  # the handler may block the loop when it goes on: first, the chunk is sent
        else:
            self._send_from_elsewhere(chunk)

    def end_run(self) -> None:
        """Nothing more comes from the handler."""
        self.is_run = True
        if self.run.stopping:
            self.delivery.cancel()

    def wake(self) -> None:
        """The run is to stop, and may wait for room."""
        self._window.wake()

    def _send_from_elsewhere(self, chunk: bytes) -> None:
        """The handler may hold the interpreter when it goes on: first, the chunk is sent; one of those that come within
        the time in which they are sent together."""
        now = time.monotonic()
        if now - self._waited_at < BATCH_SECONDS:
            self._home.call(self.delivery.add_chunk, chunk)
            return
        self._waited_at = now
        sent = threading.Event()
        if self._home.call(self._send, chunk, sent):
            sent.wait()

    def _send(self, chunk: bytes, sent: threading.Event) -> None:
        self.delivery.add_chunk(chunk)
        asyncio.get_running_loop().call_soon(sent.set)  # after the turn that sends

"""Looks names up in threads, since the system's resolver blocks: for half a minute, when name servers are silent."""

import asyncio
import socket
import threading
from collections import defaultdict
from contextlib import suppress
from ipaddress import ip_address

from .addresses import Address

LOOKUPS = 256  # at once; each is a thread, that may hang for as long as a name server does
LOOKUPS_OF_ONE = 64


class Lookups:
    """What is being looked up. Whose names are answered slowly waits for itself, and keeps nobody else waiting.

    Each has a thread of its own: the default executor's few would be gone for all others, and a pool's are waited for
    when the process ends.
    """

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(LOOKUPS)
        self._own: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(LOOKUPS_OF_ONE))

    async def addresses_of(self, host: str, of: str) -> list[Address]:
        """The addresses of a name, none when there are none; on behalf of `of`."""
        own = self._own[of]
        await own.acquire()
        try:
            await self._all.acquire()
        except BaseException:
            own.release()
            raise
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Address]] = loop.create_future()

        def give(found: list[Address]) -> None:
            self._all.release()  # only now, whoever still waits: the thread counted until here
            own.release()
            if not answer.done():
                answer.set_result(found)

        def run() -> None:
            found: list[Address] = []
            with suppress(OSError, UnicodeError):
                found = [ip_address(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(give, found)

        try:
            threading.Thread(target=run, name="outbound-lookup", daemon=True).start()
        except RuntimeError:  # the system lets us have no more of them
            give([])
        return await answer

"""Sends requests to a gateway of its own, and says what went wrong."""

import asyncio
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gateway.app import App
from gateway.settings import Settings

from ..gateway.processes import Gateway
from ..gateway.waiting import eventually_true
from ..stores import Server, valkey
from .connection import Connection, NotHttp, Response, Silence
from .requests import Known, Maker, Request

CLIENTS = 48
SECONDS_TO_ANSWER = 30.0
SECONDS_TO_HANG_UP = 2.0
"""After which a client goes away whose request may wait for a job."""

ADMIN_KEYS = "rl-a,acme:rl-b"
API_KEYS = "other:rl-c"
OURS = ["rl-a", "rl-a", "rl-a", "rl-b", "rl-c"]
SETTINGS = {
    "admin_keys": ADMIN_KEYS, "api_keys": API_KEYS, "rate_limits": "off", "failed_logins": "0", "poll_seconds": "1",
    "openai_wait_seconds": "0.5", "openai_keep_alive_seconds": "0.1", "body_seconds": "1", "output_limit": "200000",
    "chunk_limit": "1000", "run_limit": "250000", "runsync_limit": "250000", "run_retention_seconds": "5",
    "runsync_retention_seconds": "2", "vault_master_keys": "A" * 43 + "=",
}  # fmt: skip
IN_LOG = re.compile(r"^(?:Traceback|.* failed$|.*the store refused|.*never retrieved|.*Exception in).*", re.MULTILINE)
MOST_OF_LOG = 8000
SPARE_FILES = 40
"""Connections to the store, which come as they are needed."""


@dataclass
class Outcome:
    """What came of a run: the number of answers of each operation by their statuses, and what was wrong, with the first
    bytes of the request."""

    seed: int
    answers: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """How many were sent, those without an answer (status 0) too."""
        return self.answers.total()

    def fail(self, what: str, request: Request | None = None) -> None:
        """Notes something wrong."""
        sent = f"\n  {request.method} {request.path}\n  {request.data[:600]!r}" if request else ""
        self.failures.append(what + sent)


Tell = Callable[[Outcome], None]


def fuzz(folder: Path, seed: int, requests: int, seconds: float, tell: Tell | None = None) -> Outcome:
    """Sends so many requests, or for so long, to a gateway over a store that it starts.

    Args:
        folder: where they keep their data and logs.
        seed: of what is sent. What is answered depends on more than that.
        requests: how many.
        seconds: how long at most.
        tell: called about every second.
    """
    server = Server(folder / "store", valkey())
    server.start()
    gateway = Gateway(folder, server.url, audit_log=str(folder / "audit"), **SETTINGS)
    outcome = Outcome(seed)
    try:
        table = asyncio.run(_table(server.url))
        asyncio.run(_Run(gateway, table, outcome, requests, seconds).run(tell))
        if found := IN_LOG.search(gateway.log):
            outcome.fail(f"in the log: {gateway.log[found.start() :][:MOST_OF_LOG]}")
        status = gateway.stop()
        if status not in (0, -signal.SIGTERM):
            outcome.fail(f"the gateway ended with {status}")
    finally:
        if gateway.is_running:
            gateway.kill()
        server.stop()
    return outcome


async def _table(redis_url: str) -> dict[str, tuple[str, ...]]:
    app = App(Settings(redis_url=redis_url, insecure=True))
    async with app.connected():
        return dict(app.served)


class _Run:
    def __init__(
        self, gateway: Gateway, table: dict[str, tuple[str, ...]], outcome: Outcome, requests: int, seconds: float
    ) -> None:
        self._gateway = gateway
        self._table = table
        self._outcome = outcome
        self._left = requests
        self._deadline = time.monotonic() + seconds
        self._known = Known(list(OURS))

    async def run(self, tell: Tell | None) -> None:
        """All of it."""
        await self._client(CLIENTS, most=1)  # so that all is loaded that is loaded late
        files = self._open_files()
        clients = [asyncio.create_task(self._client(number)) for number in range(CLIENTS)]
        while (await asyncio.wait(clients, timeout=1.0))[1]:
            if tell is not None:
                tell(self._outcome)
        for client in clients:
            client.result()
        await asyncio.to_thread(self._check, files)

    def _check(self, files: int) -> None:
        try:
            eventually_true(lambda: self._open_files() <= files + SPARE_FILES, SECONDS_TO_ANSWER)
        except AssertionError:
            self._outcome.fail(f"{self._open_files()} open files at the end, {files} at the begin")

    def _open_files(self) -> int:
        return len(os.listdir(f"/proc/{self._gateway.pid}/fd"))

    async def _client(self, number: int, most: int = 10**9) -> None:
        maker = Maker(self._table, self._known, self._outcome.seed * 1000 + number)
        connection = Connection(self._gateway.port)
        while most > 0 and self._left > 0 and time.monotonic() < self._deadline:
            self._left -= 1
            most -= 1
            if not await self._exchange(connection, maker.request()):
                break
        await connection.close()

    async def _exchange(self, connection: Connection, request: Request) -> bool:
        """One request; whether there is any use in another."""
        patient = request.is_whole and not request.may_wait
        seconds = SECONDS_TO_ANSWER if patient else SECONDS_TO_HANG_UP
        status = 0
        try:
            response = await connection.exchange(request.data, request.method == "HEAD", seconds, not request.is_whole)
        except Silence:
            if patient:
                self._outcome.fail(f"no answer within {seconds:g} s", request)
        except NotHttp as error:
            self._outcome.fail(str(error), request)
            await connection.close()
        except ConnectionRefusedError:
            self._outcome.fail("the gateway is gone")
            return False
        else:
            if response is None and request.is_whole and request.key not in self._known.made_keys:  # it may be revoked
                self._outcome.fail("closed without an answer", request)
            if response is not None:
                status = response.status
                self._judge(request, response)
        self._outcome.answers[request.method, request.path, status] += 1
        return True

    def _judge(self, request: Request, response: Response) -> None:
        self._known.learn(request, response.body)
        message = response.body[:300].decode(errors="replace")
        ours = "/openai/" not in request.path or "internal error" in message or "the queue store" in message
        if response.status >= 500 and ours:
            self._outcome.fail(f"{response.status} {message}", request)
        if response.headers.get("content-type") == "application/json" and request.method != "HEAD":
            try:
                json.loads(response.body, parse_int=len, parse_constant=_refuse)
            except (ValueError, RecursionError) as error:
                self._outcome.fail(f"{response.status} that is not JSON ({error}): {message}", request)


def _refuse(name: str) -> None:
    raise ValueError(name)

"""The link over HTTP, for a handler's process on a machine from which the store cannot be reached."""

import json
import logging
from collections.abc import Callable

from ..outcomes import Limits
from . import (
    PROMPT_BYTES,
    Attempt,
    Begin,
    HeldAttempts,
    LostReplyError,
    Register,
    Registered,
    Report,
    TakenJob,
)
from .gateway import POLL_SECONDS, Gateway, path_of
from .http_connection import Exchange, Request, WithdrawnError

JOBS = "application/x-runlane-jobs"

# The gateway gives no more at once.
MOST_JOBS = 1000


class HttpLink:
    """See `Link`. Jobs come as answers to polls, one poll at a time."""

    def __init__(self, register: Register) -> None:
        # The worker tells of outages; twice would be once too often.
        self._gateway = Gateway(register, outage_level=logging.DEBUG)
        self._astray = True  # jobs may be on their way here that will not come
        self._poll: Exchange | None = None
        self._capacity: Callable[[], int] = lambda: 0
        self._progress: dict[Attempt, Exchange] = {}

    @property
    def worker(self) -> str:
        return self._gateway.registered.worker

    @property
    def limits(self) -> Limits:
        return self._gateway.registered.limits

    async def open(self, registered: Registered) -> None:
        await self._gateway.open(registered)

    async def receive(self) -> None:
        """Jobs come with the answers that `take` waits for."""

    async def take(self, capacity: Callable[[], int], held: HeldAttempts, begin: Begin) -> None:
        if self._astray:
            await self.give_back(held)
        self._capacity = capacity
        room = min(capacity(), MOST_JOBS)
        if room > 0:
            for job in await self._ask(room):
                begin(job)
        if self._astray:
            await self.give_back(held)

    def look_again(self) -> None:
        if self._poll is not None and self._capacity() <= 0:
            self._poll.withdraw()

    async def give_back(self, held: HeldAttempts) -> None:
        await self._gateway.give_back(held())
        self._astray = False

    def sends_at_once(self, size: int) -> bool:
        return size <= PROMPT_BYTES and self._gateway.stands

    def emit(self, attempt: Attempt, first: int, chunks: list[bytes]) -> Report:
        path = path_of("job-stream", self.worker, attempt.job, attempt=attempt.number, first=first)
        exchange = self._gateway.begin(Request("POST", path, b"[" + b",".join(chunks) + b"]"))
        return self._gateway.report(attempt, exchange)

    def progress(self, attempt: Attempt, value: bytes) -> Report:
        body = b'{"status":"IN_PROGRESS","output":' + value + b"}"
        exchange = self._say(attempt, Request("POST", _done(self.worker, attempt), body, repeats=False))
        self._progress[attempt] = exchange
        exchange.answer.add_done_callback(lambda _: self._forget(attempt, exchange))
        return self._gateway.report(attempt, exchange)

    def finish(self, attempt: Attempt, state: str, field: str, value: bytes) -> Report:
        body = b"{}"
        if field == "error":
            again = {"retry": True} if state == "RETRY" else {}
            body = json.dumps({"error": value.decode(errors="replace"), **again}).encode()
        elif field:
            body = b'{"' + field.encode() + b'":' + value + b"}"
        return self._gateway.report(attempt, self._say(attempt, Request("POST", _done(self.worker, attempt), body)))

    async def close(self) -> None:
        await self._gateway.close()

    async def _ask(self, room: int) -> list[TakenJob]:
        """Waits for jobs. When there is no answer, jobs may have been in it."""
        wait = POLL_SECONDS * 1000
        queues = self._gateway.registered.queues
        query = {"batch_size": room, "wait": wait} | ({"queues": queues} if queues else {})
        path = path_of("job-take-batch", self.worker, **query)
        self._astray = True
        self._poll = poll = self._gateway.begin(Request("GET", path, accept=JOBS, wait=POLL_SECONDS, repeats=False))
        try:
            jobs = await self._gateway.complete(poll, read_jobs)
        except (LostReplyError, WithdrawnError):
            return []
        finally:
            self._poll = None
        self._astray = False
        return jobs

    def _say(self, attempt: Attempt, request: Request) -> Exchange:
        """Sends what must not overtake progress that was sent before."""
        return self._gateway.begin(request, self._progress.get(attempt) if request.is_small else None)

    def _forget(self, attempt: Attempt, progress: Exchange) -> None:
        if self._progress.get(attempt) is progress:
            del self._progress[attempt]


def _done(worker: str, attempt: Attempt) -> str:
    return path_of("job-done", worker, attempt.job, attempt=attempt.number)


def read_jobs(body: bytes) -> list[TakenJob]:
    """Jobs, each a line "<id> <attempt> <size of the request> <size of the input>" and both as they are.

    Raises ValueError.
    """
    jobs, at = [], 0
    while at < len(body):
        end = body.index(b"\n", at)
        job, attempt, size_of_request, size_of_input = body[at:end].decode().split(" ")
        split = end + 1 + int(size_of_request)
        at = split + int(size_of_input)
        jobs.append(TakenJob(Attempt(job, int(attempt)), body[split:at], body[end + 1 : split]))
    if at > len(body):
        raise ValueError("the last job is not complete")
    return jobs

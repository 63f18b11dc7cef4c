"""What workers that come over HTTP say of themselves and of their attempts. Those with the store's own link call the
same functions by themselves.

A worker that knows attempts names them by their numbers; for one of RunPod's, `held_by` stands for the attempt that it
has.
"""

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from ..errors import Conflict, NotFound, Unavailable
from . import keys
from .batching import Argument, Batcher
from .polls import Stop
from .tasks import Background

logger = logging.getLogger(__name__)

SECONDS_TO_REPEAT = 20.0
"""For so long what workers say is offered to a store that is away, longer than a call to it may take. RunPod's SDK
repeats a result three times within a few seconds, and then gives it up; and a chunk as if it were another one."""

Pairs = Sequence[tuple[str, int]]
"""Jobs and the numbers of their attempts."""


def held_by(worker: str) -> str:
    """The attempt of a job that this worker has."""
    return f"@{worker}"


class Reports:
    """Each call returns None when what it says counts, or the state that the job was found in when it does not."""

    def __init__(self, batcher: Batcher, background: Background) -> None:
        self._batcher = batcher
        self._background = background

    async def emit(self, endpoint: str, job: str, attempt: str, first: int, chunks: list[bytes]) -> str | None:
        """Adds chunks, the first of which is the `first` of this attempt, counted from 1."""
        return await self._say(endpoint, "emit", job, attempt, first, *chunks)

    async def add(self, endpoint: str, job: str, worker: str, chunks: list[bytes]) -> str | None:
        """Adds chunks of a worker that does not number them."""
        return await self._say_at_last(endpoint, "chunk", job, worker, secrets.token_hex(8), *chunks)

    def note_unheard(self, endpoint: str, job: str, worker: str, digest: str) -> None:
        """The worker did not get the answer to an `add` with this digest, and will repeat it: notes it, soon."""
        self._background.begin(self._note_unheard(endpoint, job, worker, digest))

    async def _note_unheard(self, endpoint: str, job: str, worker: str, digest: str) -> None:
        try:
            await self._call(endpoint, "unheard", job, worker, digest)
        except (Unavailable, ResponseError) as error:
            logger.warning("job %s may get a chunk twice: %s", job, error)

    async def progress(self, endpoint: str, job: str, attempt: str, value: bytes) -> str | None:
        """Shows this JSON while the job runs."""
        return await self._say(endpoint, "progress", job, attempt, value)

    async def finish(
        self, endpoint: str, worker: str, job: str, attempt: str, outcome: tuple[str, str, bytes], ends: bool = False
    ) -> str | None:
        """Ends the attempt.

        Args:
            endpoint: the endpoint's id.
            worker: the worker's.
            job: the job's.
            attempt: the number of the attempt, or `held_by`.
            outcome: the state, the field that it has ("output", "error" or "") and its value.
            ends: the worker is about to end, so it gets no other job.
        """
        return await self._say_at_last(endpoint, "done", worker, "1" if ends else "", job, attempt, *outcome)

    async def lose(self, endpoint: str, job: str, attempt: str, reason: str) -> str | None:
        """Gives the attempt up, so that the job is tried again or fails for good."""
        return await self._say(endpoint, "lose", job, attempt, reason)

    async def give_back(self, endpoint: str, worker: str, number: int, has: Pairs) -> None:
        """Puts back what the worker was given and does not have; not when a call with a higher number came before."""
        await self._call(endpoint, "return", worker, number, *(value for pair in has for value in pair))

    async def ping(
        self, endpoint: str, worker: str, alive_ms: int, jobs: list[str], description: bytes, unhealthy: str = ""
    ) -> None:
        """A sign of life of a worker of RunPod's, and of the jobs that it runs. `unhealthy`: why it is, if it is."""
        state = "unhealthy" if unhealthy else ""
        await self._call(endpoint, "ping", worker, alive_ms, state, unhealthy, description, *jobs)

    async def renew(
        self, endpoint: str, worker: str, gone_ms: int, concurrency: int, state: str, description: bytes, has: Pairs
    ) -> list[Stop]:
        """A sign of life of the worker and of all that it was given. Returns those of `has` that it holds no longer."""
        pairs = (value for pair in has for value in pair)
        reply = await self._call(endpoint, "renew", worker, gone_ms, concurrency, state, description, *pairs)
        rows = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        return [Stop(job.decode(), int(number), found.decode()) for job, number, found in rows]

    async def _say_at_last(self, endpoint: str, function: str, *arguments: Argument) -> str | None:
        """Says it again while the store is away; for functions that may be repeated."""
        deadline = time.monotonic() + SECONDS_TO_REPEAT
        while True:
            try:
                return await self._say(endpoint, function, *arguments)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)

    async def _say(self, endpoint: str, function: str, *arguments: Argument) -> str | None:
        reply = await self._call(endpoint, function, *arguments)
        return reply[1].decode() if isinstance(reply, list) else None

    async def _call(self, endpoint: str, function: str, *arguments: Argument) -> Any:
        try:
            return await self._batcher.call(keys.base(endpoint), function, *arguments)
        except ResponseError as error:
            if str(error).startswith("NOGROUP"):
                raise NotFound(f"no endpoint {keys.id_of(endpoint)}") from None
            if str(error).startswith("GAP"):
                raise Conflict(str(error)) from None
            raise


def digest_of(chunks: list[bytes]) -> str:
    """What the function `chunk` compares; not for secrecy."""
    return hashlib.sha1(b" ".join(chunks)).hexdigest()  # noqa: S324

"""What workers say and ask over HTTP, under /v2/{endpoint}: the protocol of RunPod's SDK (`runpod` on PyPI, 1.7.13 and
1.12.0: serverless/modules/rp_job.py, rp_http.py, rp_ping.py), and what our own SDK says beyond it.

RunPod's workers name a job; ours name an attempt of it, by `attempt` in the query, number their chunks, and bring
several at a time. Whatever comes for an attempt that counts no more is answered 200 and changes nothing.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import orjson
from msgspec import UNSET

from handler_sdk.encoding import NotJsonError, split_string, to_json

from ..access.keys import Scope
from ..access.workers import WorkerAccess
from ..described import JSON, Media, described
from ..engine.endpoints import Endpoint
from ..engine.polls import Handed, HungUp, Polls
from ..engine.reports import Reports, digest_of, held_by
from ..engine.tasks import end
from ..engine.telemetry import Telemetry
from ..errors import BadRequest, Error, Forbidden, NotFound, TooLarge, TooManyRequests, Unauthorized, Unavailable
from ..http import NO_CONTENT, Answer, Body, ByMethod, Call, Operation, Reply, Served
from ..settings import Settings
from . import worker_types as types

logger = logging.getLogger(__name__)

MOST_BYTES = 1_000_000
MOST_DESCRIPTION = 16_000
ROOM_AROUND_A_VALUE = 65_536
SLOWEST_UPLOAD = 125_000
"""Bytes per second."""

LEAST_ALIVE_MS = 3_000
SECONDS_TO_PAUSE = 5
SECONDS_BEFORE_REFUSAL = 1.0
RAW_JOBS = "application/x-runlane-jobs"

WORKER_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62})?")
_JOB_ID = re.compile(r"[A-Za-z0-9-]{1,64}")

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_chunks = msgspec.json.Decoder(types.Chunks).decode


_POLL_ERRORS = {429: "the store is not available at present; RunPod's SDK comes back after 5 s"}


class WorkerCalls:
    """The operations for workers of one gateway process."""

    TAG = "Workers of RunPod's SDK"

    def __init__(
        self, polls: Polls, reports: Reports, telemetry: Telemetry, access: WorkerAccess, settings: Settings
    ) -> None:
        self._polls = polls
        self._reports = reports
        self._telemetry = telemetry
        self._access = access
        self._settings = settings

    def operations(self) -> dict[str, Served]:
        """Path under /v2/{endpoint}, and what is served there. A refusal has to be told in its own way, so the key is
        checked by each operation."""
        pings = ByMethod({"GET": self.ping, "POST": self.renew})
        paths: dict[str, tuple[Operation, tuple[str, ...]]] = {
            "/job-take/{worker}": (self.take_one, ("GET",)),
            "/job-take-batch/{worker}": (self.take_batch, ("GET",)),
            "/job-stop/{worker}": (self.stops, ("GET",)),
            "/job-stream/{worker}/{job}": (self.stream, ("POST",)),
            "/job-done/{worker}/{job}": (self.done, ("POST",)),
            "/job-lost/{worker}/{job}": (self.lose, ("POST",)),
            "/job-return/{worker}": (self.give_back, ("POST",)),
            "/ping/{worker}": (pings, ("GET", "POST")),
            "/tell/{worker}": (self.tell, ("POST",)),
        }
        return {path: Served(operation, methods, None) for path, (operation, methods) in paths.items()}

    @described(types.JobGiven, also={204: None}, query=types.Taking, errors=_POLL_ERRORS, scope=Scope.WORKER)
    async def take_one(self, call: Call) -> Answer:
        """A job as JSON, or 204 when none comes."""
        jobs = await self._take(call, call.queried(types.Taking), 1)
        return Reply(_job_object(jobs[0])) if jobs else _NOTHING

    @described(
        Media({JSON: list[types.JobGiven], RAW_JOBS: bytes}), also={204: None}, query=types.BatchTaking,
        errors=_POLL_ERRORS, scope=Scope.WORKER,
    )  # fmt: skip
    async def take_batch(self, call: Call) -> Answer:
        """A list of jobs, or, for our own SDK, their bytes; 204 when none comes."""
        query = call.queried(types.BatchTaking)
        jobs = await self._take(call, query, query.batch_size)
        if not jobs:
            return _NOTHING
        if call.header(b"accept") == RAW_JOBS:
            return Reply(b"".join(map(_raw_job, jobs)), content_type=RAW_JOBS.encode())
        return Reply(b"[%b]" % b",".join(map(_job_object, jobs)))

    @described(types.Stops, also={204: None}, query=types.Polling, errors=_POLL_ERRORS, scope=Scope.WORKER)
    async def stops(self, call: Call) -> Answer:
        """The jobs that the worker is to stop, as soon as there are any; else 204."""
        async with _polling(call) as hung_up:
            endpoint, worker = await self._access.admit(call), _worker(call)
            seconds = self._seconds_to_wait(call.queried(types.Polling))
            found = await self._polls.stops(endpoint.name, worker, seconds, hung_up)
        if not found:
            return _NOTHING
        return Reply(msgspec.json.encode(types.Stops([stop.job for stop in found], found)))

    @described(
        types.Heard, body=types.Output | types.Chunks, query=types.Streaming, scope=Scope.WORKER,
        errors={409: "chunks before the first one are missing"},
    )  # fmt: skip
    async def stream(self, call: Call) -> Answer:
        """Chunks of a running job."""
        endpoint, worker, job = await self._access.admit(call), _worker(call), _job(call)
        query = call.queried(types.Streaming)
        attempt, limit = _attempt(query), self._settings.chunk_limit
        try:
            body = await self._body(call, self._settings.output_limit)
            if attempt is not None:
                return _answer(await self._reports.emit(endpoint.name, job, attempt, query.first, _chunks(body, limit)))
            chunks = _pieces(bytes(_fields(body).get("output", b"null")), limit)
        except (BadRequest, TooLarge) as error:
            return await self._fail(endpoint, worker, job, attempt, error)
        state = await self._reports.add(endpoint.name, job, worker, chunks)
        if state is None and call.connection is not None:
            digest = digest_of(chunks)
            call.connection.expect_reading(lambda: self._reports.note_unheard(endpoint.name, job, worker, digest))
        return _answer(state)

    @described(types.Heard, body=types.Result, query=types.Ending, scope=Scope.WORKER)
    async def done(self, call: Call) -> Answer:
        """The end of a job, or its progress."""
        endpoint, worker, job = await self._access.admit(call), _worker(call), _job(call)
        query = call.queried(types.Ending)
        attempt = _attempt(query)
        try:
            fields = _fields(await self._body(call, self._settings.output_limit))
        except (BadRequest, TooLarge) as error:
            return await self._fail(endpoint, worker, job, attempt, error)
        if bytes(fields.get("status", b"")) == b'"IN_PROGRESS"':
            value = bytes(fields.get("output", b"null"))
            return _answer(await self._reports.progress(endpoint.name, job, attempt or held_by(worker), value))
        ends = bytes(fields.get("stopPod", b"")) == b"true"
        outcome = _outcome(fields, attempt is not None, query.isStream == "true")
        state = await self._reports.finish(endpoint.name, worker, job, attempt or held_by(worker), outcome, ends)
        if state is not None:
            logger.debug("job %s: a result of worker %s came when the job was %s", job, worker, state)
        return _answer(state)

    @described(types.Heard, body=types.Loss, query=types.Attempted, scope=Scope.WORKER)
    async def lose(self, call: Call) -> Answer:
        """Our SDK gives an attempt up."""
        endpoint, worker, job = await self._access.admit(call), _worker(call), _job(call)
        attempt = _attempt(call.queried(types.Attempted)) or held_by(worker)
        loss = _decode(types.Loss, await self._body(call, MOST_BYTES))
        return _answer(await self._reports.lose(endpoint.name, job, attempt, loss.error))

    @described(types.Heard, body=types.Kept, scope=Scope.WORKER)
    async def give_back(self, call: Call) -> Answer:
        """Our SDK says what it has; whatever else it was given goes back to the queue."""
        endpoint, worker = await self._access.admit(call), _worker(call)
        kept = _decode(types.Kept, await self._body(call, MOST_BYTES))
        await self._reports.give_back(endpoint.name, worker, kept.number, kept.attempts)
        return _answer(None)

    @described(types.Heard, query=types.Sign, scope=Scope.WORKER)
    async def ping(self, call: Call) -> Answer:
        """A sign of life of RunPod's SDK, which names its jobs."""
        endpoint, worker = await self._access.admit(call), _worker(call)
        sign = call.queried(types.Sign)
        jobs = [job for job in sign.job_id.split(",") if _JOB_ID.fullmatch(job)]
        unhealthy = ""
        if sign.status == "unhealthy":
            unhealthy = f"{sign.check}: {sign.reason}"[:1000]
            logger.warning("worker %s of endpoint %s is unhealthy: %r", worker, endpoint.name, unhealthy)
        await self._reports.ping(endpoint.name, worker, _alive_ms(endpoint), jobs, _description(sign), unhealthy)
        return _answer(None)

    @described(types.Lapsed, body=types.Renewal, scope=Scope.WORKER)
    async def renew(self, call: Call) -> Answer:
        """A sign of life of our own SDK, and of its attempts."""
        endpoint, worker = await self._access.admit(call), _worker(call)
        renewal = _decode(types.Renewal, await self._body(call, MOST_BYTES))
        text = b"" if renewal.description is None else msgspec.json.encode(renewal.description)
        if len(text) > MOST_DESCRIPTION:
            raise BadRequest(f"the description has {len(text)} bytes; the limit is {MOST_DESCRIPTION} bytes")
        lapsed = await self._reports.renew(
            endpoint.name, worker, renewal.gone_ms, renewal.concurrency, renewal.state, text, renewal.attempts
        )
        return Reply(msgspec.json.encode(types.Lapsed(lapsed)))

    @described(types.Heard, body=types.Told, scope=Scope.WORKER)
    async def tell(self, call: Call) -> Answer:
        """Our SDK tells how busy its machine is, and what it has printed."""
        endpoint, worker = await self._access.admit(call), _worker(call)
        told = _decode(types.Told, await self._body(call, MOST_BYTES))
        await self._telemetry.tell(endpoint.name, worker, told.metrics, told.run, told.first, told.lines)
        return _answer(None)

    async def _take(self, call: Call, query: types.Taking, most: int) -> list[Handed]:
        is_ours = call.header(b"accept") == RAW_JOBS
        async with _polling(call) as hung_up:
            endpoint, worker = await self._access.admit(call), _worker(call)
            jobs = await self._polls.take(
                endpoint.name, worker, most, self._seconds_to_wait(query), _alive_ms(endpoint), hung_up,
                has_none=not is_ours and query.job_in_progress == "0",
                state="" if is_ours else "ready", queues=query.queues,
            )  # fmt: skip
        if jobs and call.connection is not None:
            attempts = [(job.job, job.attempt) for job in jobs]
            call.connection.expect_reading(lambda: self._polls.refuse(endpoint.name, attempts))
        return jobs

    def _seconds_to_wait(self, query: types.Polling) -> float:
        return self._settings.poll_seconds if query.wait is UNSET else query.wait / 1000

    async def _body(self, call: Call, limit: int) -> Body:
        seconds = max(self._settings.body_seconds, limit / SLOWEST_UPLOAD)
        return await call.body(limit + ROOM_AROUND_A_VALUE, seconds)

    async def _fail(self, endpoint: Endpoint, worker: str, job: str, attempt: str | None, error: Error) -> Answer:
        """What the worker says cannot be taken, and repeating it would not help."""
        outcome = ("FAILED", "error", f"what the worker sent cannot be taken: {error.message}".encode())
        return _answer(await self._reports.finish(endpoint.name, worker, job, attempt or held_by(worker), outcome))


_NOTHING = Reply(b"", NO_CONTENT)


def _answer(state: str | None) -> Reply:
    return Reply(b'{"status":"OK"}' if state is None else orjson.dumps({"status": "STALE", "state": state}))


@asynccontextmanager
async def _polling(call: Call) -> AsyncIterator[HungUp]:
    """Notices a client that hangs up meanwhile. RunPod's SDK repeats a poll that failed at once, but for 429, after
    which it pauses for 5 s; so what will not pass by itself is told with a pause."""
    hung_up = asyncio.get_running_loop().create_task(call.hang_up())
    try:
        yield hung_up
    except (Unauthorized, Forbidden, NotFound):
        await asyncio.wait({hung_up}, timeout=SECONDS_BEFORE_REFUSAL)
        raise
    except Unavailable as error:
        if call.query.get("wait"):
            raise
        raise TooManyRequests(error.message, SECONDS_TO_PAUSE) from None
    finally:
        await end(hung_up)


def _worker(call: Call) -> str:
    worker: str = call.parameters["worker"]
    if not WORKER_ID.fullmatch(worker):
        raise NotFound("a worker's id is 1 to 63 letters, digits, '.', '-' or '_'")
    return worker


def _job(call: Call) -> str:
    job: str = call.parameters["job"]
    if not _JOB_ID.fullmatch(job):
        raise NotFound("no such job")
    return job


def _attempt(query: types.Attempted) -> str | None:
    return str(query.attempt) if query.attempt else None


def _alive_ms(endpoint: Endpoint) -> int:
    return max(LEAST_ALIVE_MS, endpoint.lease_ms)


def _description(sign: types.Sign) -> bytes:
    fields = {"sdk": f"runpod {sign.runpod_version}".strip()[:100]}
    if sign.gpu:
        fields["gpu"] = sign.gpu[:100]
    return orjson.dumps(fields)


def _job_object(handed: Handed) -> bytes:
    """A job as RunPod's SDK takes it. Of names that stand twice, the last one counts: those are ours."""
    own = b'"id":"%b","attempt":%d,"retries":%d,"input":%b}' % (
        handed.job.encode(), handed.attempt, handed.attempt - 1, handed.input,
    )  # fmt: skip
    others = handed.request[:-1].rstrip() + b"," if len(handed.request) > 2 else b"{"
    return others + own


def _raw_job(handed: Handed) -> bytes:
    head = f"{handed.job} {handed.attempt} {len(handed.request)} {len(handed.input)}\n"
    return head.encode() + handed.request + handed.input


def _decode(kind: Any, body: Body) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body makes no sense: {error}") from None


def _fields(body: Body) -> dict[str, msgspec.Raw]:
    """The fields of a JSON object. Python's own `json`, which RunPod's SDK uses, writes NaN and Infinity, which JSON
    does not have: they become null."""
    try:
        body.decode()
        return _decode_fields(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        found = json.loads(body)
        if not isinstance(found, dict):
            raise BadRequest("it is not a JSON object")
        return {name: msgspec.Raw(to_json(_without_nan(value))) for name, value in found.items()}
    except (ValueError, RecursionError, NotJsonError) as error:
        raise BadRequest(f"it is not JSON: {error}") from None


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list) else value


def _chunks(body: Body, limit: int) -> list[bytes]:
    try:
        body.decode()
        chunks = [bytes(chunk) for chunk in _decode_chunks(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("it is not a JSON list of up to 1000 chunks") from None
    for chunk in chunks:
        if len(chunk) > limit:
            raise TooLarge(f"a chunk has {len(chunk)} bytes; the limit is {limit} bytes")
    return chunks


def _pieces(chunk: bytes, limit: int) -> list[bytes]:
    """A chunk over the limit in several pieces, when it is a string."""
    if len(chunk) <= limit:
        return [chunk]
    if not chunk.startswith(b'"'):
        raise TooLarge(f"a chunk has {len(chunk)} bytes; the limit is {limit} bytes")
    return split_string(json.loads(chunk), limit)


def _outcome(fields: dict[str, msgspec.Raw], is_ours: bool, is_stream: bool) -> tuple[str, str, bytes]:
    """State, field and value. RunPod's SDK leaves an output of {} out, and gives [] for a generator whose chunks it
    does not aggregate; ours says of an error whether the job is to be tried again by its policy."""
    error, output = bytes(fields.get("error", b"null")), bytes(fields.get("output", b""))
    if error not in (b"null", b'""', b"false") or (is_ours and "error" in fields):
        state = "RETRY" if is_ours and bytes(fields.get("retry", b"")) == b"true" else "FAILED"
        return state, "error", json.loads(error).encode(errors="replace") if error.startswith(b'"') else error
    if output == b"[]" and is_stream and not is_ours:
        return "COMPLETED", "", b""
    if not output and not is_ours and not is_stream:
        return "COMPLETED", "output", b"{}"
    return ("COMPLETED", "output", output) if output else ("COMPLETED", "", b"")

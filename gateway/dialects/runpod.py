"""RunPod's serverless API for clients, under /v2/{endpoint_id}: https://docs.runpod.io/serverless/endpoints/operations"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack

import msgspec
from msgspec import UNSET, Raw

from ..access.keys import Scope
from ..described import JSON, Media, described
from ..engine.engine import Engine, Job, State, Submission
from ..engine.following import Arrived, Follower
from ..engine.ids import beginning_of_id, new_id
from ..engine.jobs import payload_of
from ..engine.queue_config import DEFAULT, LOW, queue_of
from ..engine.wakeups import Watch
from ..errors import BadRequest, Forbidden, NotFound
from ..event_stream import COMMENT, SECONDS_BETWEEN_COMMENTS, EventStream, event, on_one_line
from ..http import Answer, Body, Call, Reply, Served
from ..job_object import JobObject, JobState, job_object, job_reply, times_of
from ..outbound import Outbound
from ..settings import Settings
from ..waits import until_final, unwatch, watching
from . import runpod_types as types
from .runpod_types import EXECUTION_MS, LONGEST_IDEMPOTENCY_KEY, TTL_MS

DEFAULT_TTL_MS = 86_400_000
POLL_SECONDS = 5.0

_JOB_ID = re.compile(r"[A-Za-z0-9-]{1,64}")

_NO_POLICY = types.Policy()
_decode_request = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_policy = msgspec.json.Decoder(types.Policy | None).decode
_decode_text = msgspec.json.Decoder(str | None).decode


class RunPod:
    """The operations of one gateway process."""

    TAG = "RunPod"

    def __init__(self, engine: Engine, outbound: Outbound, settings: Settings) -> None:
        self._engine = engine
        self._outbound = outbound
        self._settings = settings

    def operations(self) -> dict[str, Served]:
        """Path under /v2/{endpoint}, and what is served there."""
        read, either = Scope.READ, ("GET", "POST")
        return {
            "/run": Served(self.run, ("POST",), Scope.SUBMIT, "run"),
            "/runsync": Served(self.runsync, ("POST",), Scope.SUBMIT, "runsync"),
            "/status/{job}": Served(self.status, either, read, "status"),
            "/status-sync/{job}": Served(self.status_sync, either, read, "status"),
            "/stream/{job}": Served(self.stream, either, read, "stream"),
            "/cancel/{job}": Served(self.cancel, ("POST",), Scope.CANCEL, "cancel"),
            "/retry/{job}": Served(self.retry, ("POST",), Scope.SUBMIT),
            "/purge-queue": Served(self.purge_queue, ("POST",), Scope.CANCEL, "purge-queue", "queue.purge"),
            "/health": Served(self.health, ("GET",), read, "status"),
            "/requests": Served(self.requests, ("GET",), read, "requests"),
        }

    @described(
        types.Accepted, body=types.JobRequest, query=types.Ttl, headers=types.IDEMPOTENCY_KEY,
        errors={409: "the idempotency key was used with another body"},
    )  # fmt: skip
    async def run(self, call: Call) -> Answer:
        """Puts a job into the queue and answers at once."""
        body = await call.body(self._settings.run_limit, self._settings.body_seconds)
        job = self._parse(call, body, beginning_of_id(call.endpoint), self._settings.run_retention_seconds)
        id, state = await self._engine.submit(call.endpoint, job, limit=call.limit)
        return Reply(b'{"id":"%b","status":"%b"}' % (id.encode(), state.encode()))

    @described(
        JobObject, body=types.JobRequest, query=types.TtlAndWait, headers=types.IDEMPOTENCY_KEY,
        errors={409: "the idempotency key was used with another body"},
    )  # fmt: skip
    async def runsync(self, call: Call) -> Answer:
        """Puts a job into the queue and answers when it is final, or when the time to wait is over."""
        wait = call.queried(types.TtlAndWait).wait
        body = await call.body(self._settings.runsync_limit, self._settings.body_seconds)
        new = f"sync-{new_id(call.endpoint)}"
        job = self._parse(call, body, new, self._settings.runsync_retention_seconds)
        await self._engine.listen(call.endpoint)
        with watching(self._engine, call, call.endpoint, new) as watch:
            id, _ = await self._engine.submit(call.endpoint, job, watch=True, limit=call.limit)
            del body, job  # they can be large, and the wait long
            if id == new:
                return job_reply(await self._until_final(call, id, watch, wait))
        # The idempotency key named a job that was submitted before.
        return await self._wait_for(call, id, wait)

    @described(JobObject, query=types.Ttl)
    async def status(self, call: Call) -> Answer:
        """The job as it is; `?ttl` sets its time to live anew."""
        job = _job_id(call)
        ttl = call.queried(types.Ttl).ttl
        if ttl is not UNSET and Scope.SUBMIT not in call.key.terms.scopes:
            raise Forbidden(f"this key may not set ttl; that takes one with the scope {Scope.SUBMIT}")
        found = await self._engine.status(call.endpoint, job, limit=call.limit)
        if ttl is not UNSET:
            await self._engine.touch(call.endpoint, job, ttl)
        return job_reply(found)

    @described(JobObject, query=types.Wait)
    async def status_sync(self, call: Call) -> Answer:
        """The job when it is final, or when the time to wait is over."""
        wait = call.queried(types.Wait).wait
        return await self._wait_for(call, _job_id(call), wait, call.limit)

    @described(Media({JSON: types.Chunks, "text/event-stream": str}), query=types.From, headers=types.LAST_EVENT_ID)
    async def stream(self, call: Call) -> Answer:
        """The chunks that no call has had, as JSON; or all from a position on, as server-sent events."""
        job = _job_id(call)
        start = _start(call)
        if "text/event-stream" in call.header(b"accept"):
            return await self._event_stream(call, job, start)
        await self._engine.listen(call.endpoint)
        deadline, waited, limit = time.monotonic() + POLL_SECONDS, False, call.limit
        with watching(self._engine, call, call.endpoint, job) as watch:
            while True:
                polled, limit = await self._engine.poll(call.endpoint, job, limit), ""
                if polled.chunks or polled.job.final:
                    break
                waited = True
                if await watch.next(deadline - time.monotonic()) is None:
                    break
        if waited:
            await unwatch(self._engine, call.endpoint, polled.job)
        answer = types.Chunks(job, polled.job.state, *times_of(polled.job))
        if polled.restarted:
            answer.restart = True
        answer.stream = [types.Chunk(Raw(chunk)) for chunk in polled.chunks]
        return Reply(msgspec.json.encode(answer))

    @described(JobState)
    async def cancel(self, call: Call) -> Answer:
        """Cancels the job; one that is final already stays as it is."""
        job = await self._engine.cancel(call.endpoint, _job_id(call), call.limit)
        return Reply(msgspec.json.encode(JobState(job.id, job.state, *times_of(job))))

    @described(types.Accepted, errors={409: "the job is neither FAILED nor TIMED_OUT"})
    async def retry(self, call: Call) -> Answer:
        """Puts a FAILED or TIMED_OUT job back into the queue."""
        job = _job_id(call)
        await self._engine.retry(call.endpoint, job)
        return Reply(msgspec.json.encode(types.Accepted(job, State.IN_QUEUE)))

    @described(types.Purged)
    async def purge_queue(self, call: Call) -> Answer:
        """Cancels all jobs that wait."""
        return Reply(msgspec.json.encode(types.Purged(await self._engine.purge(call.endpoint, call.limit))))

    @described(types.Health)
    async def health(self, call: Call) -> Answer:
        """Counts of jobs and workers. `throttled` stays 0: no worker of ours waits for a machine."""
        found = await self._engine.health(call.endpoint, call.limit)
        workers = found.workers
        jobs = types.JobCounts(found.completed, found.failed, found.in_progress, found.in_queue, found.retried)
        counts = types.WorkerCounts(
            workers.idle, workers.initializing, workers.idle + workers.running, workers.running, 0,
            workers.unhealthy + workers.crashing,
        )  # fmt: skip
        return Reply(msgspec.json.encode(types.Health(jobs, counts)))

    @described(types.Page, query=types.Listing)
    async def requests(self, call: Call) -> Answer:
        """Jobs of the endpoint, page by page."""
        query = call.queried(types.Listing)
        await self._engine.health(call.endpoint, call.limit)
        found = await self._engine.requests(call.endpoint, query.limit, query.cursor or None, query.status or None)
        page = {"requests": [Raw(job_object(job)) for job in found.jobs], "next": found.cursor}
        return Reply(msgspec.json.encode(page))

    def _parse(self, call: Call, body: Body, id: str, retention_seconds: int) -> Submission:
        return parse_submission(call, body, id, retention_seconds, self._outbound.check_url)

    async def _wait_for(self, call: Call, job: str, wait: int, limit: str = "") -> Reply:
        endpoint = call.endpoint
        await self._engine.listen(endpoint)
        with watching(self._engine, call, endpoint, job) as watch:
            found = await self._engine.status(endpoint, job, watch=True, limit=limit)
            if not found.final:
                found = await self._until_final(call, job, watch, wait)
        return job_reply(found)

    async def _until_final(self, call: Call, job: str, watch: Watch, wait: int) -> Job:
        return await until_final(self._engine, call.endpoint, job, watch, wait / 1000, f"/status/{job}")

    async def _event_stream(self, call: Call, job: str, start: int) -> Answer:
        await self._engine.read(
            call.endpoint, job, 0, 1, call.limit
        )  # errors get their status before the stream begins
        await self._engine.listen(call.endpoint)
        ending = AsyncExitStack()
        watch = ending.enter_context(watching(self._engine, call, call.endpoint, job))
        follower = Follower(self._engine, call.endpoint, job, watch, start)
        return EventStream(_Events(follower, watch), ending)


class _Events:
    """A job's chunks and its end as events."""

    def __init__(self, follower: Follower, watch: Watch) -> None:
        self._follower = follower
        self._watch = watch
        self._is_over = False

    async def next(self) -> bytes | None:
        """See `Source`. When this process goes, so does the stream; the reader comes back with its position."""
        if self._is_over:
            return None
        try:
            found = await self._follower.next(SECONDS_BETWEEN_COMMENTS)
        except NotFound:
            self._is_over = True
            return event("error", b'{"error":"the job is gone"}')
        if found is None:
            return None if self._watch.ended else COMMENT
        if isinstance(found, Job):
            self._is_over = True
            return event("done", on_one_line(job_object(found)))
        # In one piece: each would be sent by itself, and a page of them would keep all others waiting.
        return b"".join(_events_of(found))


def parse_submission(
    call: Call, body: Body, id: str, retention_seconds: int, check_url: Callable[[str], str]
) -> Submission:
    """A job from the body of /run or /runsync.

    Raises:
        BadRequest: not JSON, not an object, no input, or a field that cannot be; what `check_url` raises.
    """
    fields = parse_object(body)
    if "input" not in fields:
        raise BadRequest('the request has no "input"')
    payload = fields.pop("input")
    try:
        policy = _decode_policy(fields["policy"]) if "policy" in fields else None
    except msgspec.ValidationError as error:
        raise BadRequest(_policy_error(str(error))) from None
    policy = policy or _NO_POLICY
    ttl = call.queried(types.Ttl).ttl or policy.ttl or DEFAULT_TTL_MS
    key, fingerprint = idempotency_of(call, body)
    return Submission(
        id=id,
        input=payload_of(payload),
        request=msgspec.json.encode(fields) if fields else b"",
        timeout=policy.executionTimeout or 0,
        ttl=ttl,
        retention=retention_seconds * 1000,
        queue=queue_of(LOW if policy.lowPriority else DEFAULT),
        webhooks=_webhooks(fields, check_url) if fields else (),
        idempotency_key=key,
        fingerprint=fingerprint,
        share=call.key.id,
        weight=call.key.terms.weight,
    )


def idempotency_of(call: Call, body: Body) -> tuple[str, str]:
    """The key by which a request to submit a job is known, and what its body is known by; empty without one.

    Raises:
        BadRequest: the key is too long.
    """
    key = call.header(b"idempotency-key")
    if len(key) > LONGEST_IDEMPOTENCY_KEY:
        raise BadRequest(f"Idempotency-Key must be 1 to {LONGEST_IDEMPOTENCY_KEY} characters")
    if not key:
        return "", ""
    return hashlib.sha256(key.encode()).hexdigest(), hashlib.sha256(body).hexdigest()


def _webhooks(fields: dict[str, msgspec.Raw], check_url: Callable[[str], str]) -> tuple[str, ...]:
    """The addresses that are told of the job's end. RunPod's documents do not say what `webhookV2` is; here it is
    another one."""
    urls: dict[str, None] = {}
    for name in ("webhook", "webhookV2"):
        try:
            url = _decode_text(fields[name]) if name in fields else None
            if url:
                urls[check_url(url)] = None
        except msgspec.ValidationError:
            raise BadRequest(f"{name} must be a string") from None
        except BadRequest as error:
            raise BadRequest(f"{name}: {error.message}") from None
    return tuple(urls)


def parse_object(body: Body) -> dict[str, msgspec.Raw]:
    """The fields of a body, each as the JSON that it came in.

    Raises:
        BadRequest: it is no JSON object.
    """
    try:
        if not body.isascii():
            body.decode()
        return _decode_request(body)
    except msgspec.ValidationError as error:
        if "object" in str(error):
            raise BadRequest("the body must be a JSON object") from None
        raise BadRequest("the body is not valid JSON") from None
    except UnicodeDecodeError:
        raise BadRequest("the body is not valid JSON: it is not UTF-8") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except msgspec.DecodeError:
        raise BadRequest("the body is not valid JSON") from None


def _policy_error(text: str) -> str:
    field = re.search(r"\$\.(\w+)", text)
    ranges = {"executionTimeout": EXECUTION_MS, "ttl": TTL_MS}
    if field is None:
        return "policy must be an object"
    name = field.group(1)
    if name in ranges:
        return f"policy.{name} must be a whole number of ms from {ranges[name][0]} to {ranges[name][1]}"
    return f"policy.{name} must be true or false"


def _job_id(call: Call) -> str:
    job: str = call.parameters["job"]
    if not _JOB_ID.fullmatch(job):
        raise NotFound("no such job")
    return job


def _start(call: Call) -> int:
    """The position that a stream goes on from."""
    start, text = call.queried(types.From).start, call.header(b"last-event-id")
    if not text:
        return start
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise BadRequest(f"the position to go on from must be a whole number, not {text[:40]!r}")
    return int(text)


def _events_of(arrived: Arrived) -> Iterator[bytes]:
    if arrived.restarted is not None:
        yield event("restart", b'{"position":%d}' % arrived.restarted)
    for number, chunk in enumerate(arrived.chunks, arrived.first):
        yield b'id: %d\r\ndata: {"output":%b}\r\n\r\n' % (number, on_one_line(chunk))

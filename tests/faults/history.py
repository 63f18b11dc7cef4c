"""The history of a fault test, and the check of the properties that hold whatever fails.

A history is what clients and handlers have seen, from outside. `check` finds every way in which it breaks a promise:

1. Every acknowledged job is final at the end, and a repeated submission is the same job.
2. A job has one result, that of its newest attempt, and its final state never changes.
3. The chunks that a reader has got are a prefix, without gaps, of what the committed attempt wrote.
4. No job starts more often than the limit allows, and no attempt twice.
5. Nothing is left behind in the store.

What receivers of webhooks are told is the final state, under one id.
"""

import contextlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import redis

from .record import parse_chunk

FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
QUEUES = ("normal:again", "normal", "low:again", "low")
LISTS = ("archived", "completed")
PERMANENT = (
    "settings", "counts", "lifetimes", "workers", "waiting", *(f"queue:{queue}" for queue in QUEUES),
    *(f"{name}:{queue}" for name in LISTS for queue in ("normal", "low")),
)  # fmt: skip
EXPIRING = (
    "job", "chunks", "worker", "stopped", "idempotency", "limit", "webhook", "event", "webhooks", "deliveries", "ended",
    "log", "departed",
)  # fmt: skip

Chunk = tuple[int, int]
"""The attempt that wrote it and its number in it."""


@dataclass(frozen=True)
class Submitted:
    """A client is about to submit, under this idempotency key."""

    key: str


@dataclass(frozen=True)
class Acknowledged:
    """A submission under this key was answered with a job."""

    key: str
    job: str


@dataclass(frozen=True)
class Started:
    """A handler began an attempt."""

    job: str
    attempt: int
    clock: float = field(default=0.0, compare=False)
    """What the clock of its machine said, in seconds since the epoch."""


@dataclass(frozen=True)
class Wrote:
    """A handler made a chunk."""

    job: str
    attempt: int
    number: int


@dataclass(frozen=True)
class Returned:
    """A handler came to its end and gave a result."""

    job: str
    attempt: int


@dataclass(frozen=True)
class Seen:
    """A client was told the job's state, in an answer to a request of the time `asked`; `value` is output or error."""

    job: str
    state: str
    value: Any = None
    asked: float = field(default_factory=time.monotonic)
    answered: float = field(default_factory=time.monotonic)

    @property
    def final(self) -> bool:
        return self.state in FINAL


@dataclass(frozen=True)
class Delivered:
    """What one reader has got of the newest attempt it heard of; `whole`: up to the closing event of the stream."""

    job: str
    chunks: tuple[Chunk, ...]
    whole: bool = False


@dataclass(frozen=True)
class Told:
    """A receiver was told the job's end by a webhook with this id; `value` is output or error."""

    job: str
    id: str
    state: str
    value: Any = None


@dataclass(frozen=True)
class Failed:
    """A client got an answer, or none, that it should not have got."""

    what: str


Event = Submitted | Acknowledged | Started | Wrote | Returned | Seen | Delivered | Told | Failed
_OF_HANDLERS = {"started": Started, "wrote": Wrote, "returned": Returned}


class History:
    """Collects the events of one test. Handlers write theirs to the file at `log`."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.log.touch()
        self._events: list[Event] = []

    def add(self, event: Event) -> None:
        self._events.append(event)

    @property
    def events(self) -> list[Event]:
        """The events of the clients, in their order, then those of the handlers, in theirs."""
        return [*self._events, *read_log(self.log)]

    @property
    def jobs(self) -> list[str]:
        """The acknowledged jobs."""
        return list(dict.fromkeys(event.job for event in self._events if isinstance(event, Acknowledged)))

    def starts(self, job: str) -> list[int]:
        """The attempts of the job that handlers have begun."""
        return [event.attempt for event in read_log(self.log) if isinstance(event, Started) and event.job == job]

    def returned(self, job: str, attempt: int) -> bool:
        """Whether the handler of this attempt has given its result."""
        return Returned(job, attempt) in read_log(self.log)

    def written(self, job: str) -> int:
        """How many chunks handlers have made for the job."""
        return sum(isinstance(event, Wrote) and event.job == job for event in read_log(self.log))

    def started(self) -> set[tuple[str, int]]:
        """The jobs and attempts that handlers have begun."""
        return {(event.job, event.attempt) for event in read_log(self.log) if isinstance(event, Started)}

    def running(self) -> set[tuple[str, int]]:
        """The attempts whose handlers have begun and neither ended nor been ended. Plain functions do not say."""
        notes: dict[str, set[tuple[str, int]]] = defaultdict(set)
        for note in _notes(self.log):
            notes[note["kind"]].add((note["job"], note["attempt"]))
        return notes["started"] - notes["ended"]


def read_log(log: Path) -> Iterator[Event]:
    """The events that handlers have written down."""
    for note in _notes(log):
        kind = note.pop("kind")
        if kind in _OF_HANDLERS:
            yield _OF_HANDLERS[kind](**note)


def _notes(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_bytes().split(b"\n")[:-1]:
        with contextlib.suppress(json.JSONDecodeError):  # it is empty, or a part
            yield json.loads(line)


def check(history: History, store: "redis.Redis", endpoint: str, attempts: int = 3) -> None:
    """Fails, with everything that is wrong, unless all properties hold. No job may be under way any more."""
    found = [*violations(history.events, attempts), *leftovers(store, endpoint)]
    found += miscounted(store, endpoint, history.events)
    assert not found, "\n".join(found[:20])


def violations(events: Sequence[Event], attempts: int) -> list[str]:
    """What is wrong with a history in itself. `attempts` is the endpoint's limit."""
    by_job: dict[str, _Job] = defaultdict(_Job)
    found, keys = [], defaultdict(set)
    for event in events:
        if isinstance(event, Failed):
            found.append(f"a client got {event.what}")
        elif isinstance(event, Acknowledged):
            keys[event.key].add(event.job)
            by_job[event.job].acknowledged = True
        elif not isinstance(event, Submitted):
            by_job[event.job].add(event)
    found += [f"key {key} gave several jobs: {sorted(jobs)}" for key, jobs in keys.items() if len(jobs) > 1]
    for id, job in by_job.items():
        found += [f"job {id}: {what}" for what in job.violations(attempts)]
    return found


class _Job:
    """What is known of one job."""

    def __init__(self) -> None:
        self.acknowledged = False
        self.started: Counter[int] = Counter()
        self.wrote: dict[int, list[int]] = defaultdict(list)
        self.returned: set[int] = set()
        self.seen: list[Seen] = []
        self.delivered: list[Delivered] = []
        self.told: list[Told] = []

    def add(self, event: Started | Wrote | Returned | Seen | Delivered | Told) -> None:
        match event:
            case Started():
                self.started[event.attempt] += 1
            case Wrote():
                self.wrote[event.attempt].append(event.number)
            case Returned():
                self.returned.add(event.attempt)
            case Seen():
                self.seen.append(event)
            case Delivered():
                self.delivered.append(event)
            case Told():
                self.told.append(event)

    def violations(self, limit: int) -> Iterator[str]:
        yield from self._wrong_states()
        yield from self._wrong_result()
        yield from self._wrong_chunks()
        yield from self._wrong_starts(limit)
        yield from self._wrong_webhooks()

    @property
    def _end(self) -> Seen | None:
        return next((seen for seen in self.seen if seen.final), None)

    def _wrong_states(self) -> Iterator[str]:
        end = self._end
        if end is None:
            if self.acknowledged:
                yield f"acknowledged and never final; last seen: {self.seen[-1].state if self.seen else 'nothing'}"
            return
        known = min(seen.answered for seen in self.seen if seen.final)
        for seen in self.seen:
            if seen.final and (seen.state, seen.value) != (end.state, end.value):
                yield f"two ends: {end.state} {_short(end.value)} and {seen.state} {_short(seen.value)}"
            elif not seen.final and seen.asked > known:
                yield f"{seen.state} after {end.state}"

    def _wrong_result(self) -> Iterator[str]:
        if self._end is None or self._end.state != "COMPLETED":
            return
        attempt = attempt_of(self._end.value)
        if attempt not in self.returned:
            yield f"completed by attempt {attempt}, which returned nothing"
        if self.started and attempt < max(self.started):
            yield f"completed by attempt {attempt} after attempt {max(self.started)} had started"
        if isinstance(self._end.value, list):
            yield from self._wrong_prefix(tuple(map(parse_chunk, self._end.value)), True, "the output")

    def _wrong_chunks(self) -> Iterator[str]:
        for delivered in self.delivered:
            yield from self._wrong_prefix(delivered.chunks, delivered.whole, "a reader")
            attempts = {attempt for attempt, _ in delivered.chunks}
            if delivered.whole and self._end is not None and self._end.state == "COMPLETED":
                committed = attempt_of(self._end.value)
                if attempts - {committed}:
                    yield f"a reader got chunks of attempts {sorted(attempts)}; {committed} was committed"
                if not attempts and self.wrote[committed]:
                    yield "a reader got the end of the stream and no chunk"

    def _wrong_prefix(self, chunks: Sequence[Chunk], whole: bool, who: str) -> Iterator[str]:
        if not chunks:
            return
        attempt = chunks[0][0]
        numbers = [number for _, number in chunks]
        if any(other != attempt for other, _ in chunks):
            yield f"{who} has chunks of attempts {sorted({other for other, _ in chunks})} without a restart between"
        elif numbers != list(range(1, len(chunks) + 1)):
            yield f"{who} has a gap or a repetition in the chunks of attempt {attempt}: {_short(numbers)}"
        elif not set(numbers) <= set(self.wrote[attempt]):
            yield f"{who} has chunks that attempt {attempt} never wrote"
        elif whole and attempt in self.returned and len(numbers) < len(self.wrote[attempt]):
            yield f"{who} has {len(numbers)} of {len(self.wrote[attempt])} chunks of attempt {attempt}"

    def _wrong_webhooks(self) -> Iterator[str]:
        end = self._end
        for told in self.told:
            if end is not None and (told.state, told.value) != (end.state, end.value):
                yield f"a receiver was told {told.state} {_short(told.value)} of {end.state} {_short(end.value)}"
        if len({told.id for told in self.told}) > 1:
            yield f"a receiver was told under several ids: {sorted({told.id for told in self.told})}"

    def _wrong_starts(self, limit: int) -> Iterator[str]:
        if len(self.started) > limit:
            yield f"started {len(self.started)} times; the limit is {limit}"
        for attempt, times in self.started.items():
            if times > 1:
                yield f"attempt {attempt} started {times} times"


def attempt_of(output: Any) -> int:
    """The attempt that made this output of the tests' handler."""
    if isinstance(output, list):
        return parse_chunk(output[0])[0]
    return cast(int, output["attempt"])


def leftovers(store: "redis.Redis", endpoint: str) -> list[str]:
    """What an endpoint without jobs under way should not have in the store."""
    base = f"runlane:{{{endpoint}}}"
    found = []
    for queue in QUEUES:
        key = f"{base}:queue:{queue}"
        entries = _number(store.xlen(key))
        pending = store.xpending(key, "workers")["pending"]
        if entries or pending:
            found.append(f"queue {queue} has {entries} entries, {pending} of them pending")
    for name in store.scan_iter(match=f"{base}:*", count=1000):
        name = cast(bytes, name).decode()
        short = name.removeprefix(f"{base}:")
        if short in PERMANENT:
            continue
        if short.partition(":")[0] not in EXPIRING:
            found.append(f"key {short} is left")
        elif _number(store.pttl(name)) == -1:
            found.append(f"key {short} never expires")
    return found


def miscounted(store: "redis.Redis", endpoint: str, events: Iterable[Event]) -> list[str]:
    """Whether as many jobs have ended as there were: each end is counted in the store, so a second one would show."""
    counts = cast(dict[bytes, bytes], store.hgetall(f"runlane:{{{endpoint}}}:counts"))
    ended = sum(int(counts.get(state.encode(), 0)) for state in FINAL)
    keys, answered, jobs = set(), set(), set()
    for event in events:
        if isinstance(event, Submitted):
            keys.add(event.key)
        elif isinstance(event, Acknowledged):
            answered.add(event.key)
            jobs.add(event.job)
    most = len(jobs) + len(keys - answered)
    if len(jobs) <= ended <= most:
        return []
    return [f"{ended} ends of jobs were committed; {len(jobs)} to {most} jobs were submitted"]


def _number(reply: Any) -> int:
    return cast(int, reply)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 120 else f"{text[:60]} … {text[-60:]}"

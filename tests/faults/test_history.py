"""The checker: a good history passes, and each way to break a promise is found."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ..stores import Running, Server
from .history import (
    QUEUES,
    Acknowledged,
    Delivered,
    Event,
    Failed,
    History,
    Returned,
    Seen,
    Started,
    Submitted,
    Told,
    Wrote,
    check,
    leftovers,
    miscounted,
    violations,
)

SUBMITTED: list[Event] = [Submitted("k"), Acknowledged("k", "j")]
OUTPUT = ["2:1:", "2:2:"]
"""Of a job whose first attempt was lost after one chunk."""
RETRIED: list[Event] = [
    *SUBMITTED,
    Started("j", 1),
    Wrote("j", 1, 1),
    Started("j", 2),
    Wrote("j", 2, 1),
    Wrote("j", 2, 2),
    Returned("j", 2),
    Seen("j", "COMPLETED", OUTPUT, asked=10, answered=11),
    Delivered("j", ((2, 1), (2, 2)), whole=True),
]


def found(*more: Event, attempts: int = 3) -> str:
    return "\n".join(violations([*RETRIED, *more], attempts))


def test_a_good_history_passes() -> None:
    seen = Seen("j", "IN_PROGRESS", asked=10, answered=12)  # asked before the end was known
    assert found(seen, Delivered("j", ((1, 1),)), Delivered("j", ())) == ""


def test_jobs_that_nobody_acknowledged_may_be_lost() -> None:
    assert violations([Submitted("k"), Started("j", 1)], 3) == []


@pytest.mark.parametrize("seen", [[], [Seen("j", "IN_QUEUE")], [Seen("j", "IN_PROGRESS")]])
def test_an_acknowledged_job_that_is_not_final(seen: list[Event]) -> None:
    (what,) = violations([*SUBMITTED, *seen], 3)
    assert "never final" in what


def test_a_key_with_two_jobs() -> None:
    assert "key k gave several jobs" in found(Acknowledged("k", "other"), Seen("other", "CANCELLED"))


@pytest.mark.parametrize("end", [Seen("j", "FAILED", "x"), Seen("j", "COMPLETED", ["2:1:"]), Seen("j", "CANCELLED")])
def test_two_ends(end: Seen) -> None:
    assert "two ends: COMPLETED" in found(end)


def test_a_job_that_goes_on_after_its_end() -> None:
    assert "IN_PROGRESS after COMPLETED" in found(Seen("j", "IN_PROGRESS", asked=12, answered=13))


def test_a_result_that_no_attempt_returned() -> None:
    events = [event for event in RETRIED if not isinstance(event, Returned)]
    assert "returned nothing" in "\n".join(violations(events, 3))


def test_a_result_of_an_attempt_that_was_replaced() -> None:
    assert "after attempt 3 had started" in found(Started("j", 3))


@pytest.mark.parametrize("output", [["2:1:"], ["2:2:"], ["2:1:", "2:2:", "2:3:"]])
def test_an_output_that_is_not_what_was_written(output: list[str]) -> None:
    events = [event for event in RETRIED if not isinstance(event, Seen)]
    assert "the output has" in "\n".join(violations([*events, Seen("j", "COMPLETED", output)], 3))


@pytest.mark.parametrize(
    ("delivered", "what"),
    [
        (Delivered("j", ((2, 2),)), "gap or a repetition"),
        (Delivered("j", ((2, 1), (2, 1), (2, 2))), "gap or a repetition"),
        (Delivered("j", ((1, 1), (2, 1))), "without a restart"),
        (Delivered("j", ((2, 1), (2, 2), (2, 3))), "never wrote"),
        (Delivered("j", ((2, 1),), whole=True), "1 of 2 chunks"),
        (Delivered("j", ((1, 1),), whole=True), "2 was committed"),
        (Delivered("j", (), whole=True), "no chunk"),
    ],
)
def test_chunks_that_are_no_prefix(delivered: Delivered, what: str) -> None:
    assert what in found(delivered)


def test_too_many_attempts() -> None:
    assert "started 2 times; the limit is 1" in found(attempts=1)


def test_an_attempt_that_started_twice() -> None:
    assert "attempt 2 started 2 times" in found(Started("j", 2))


@pytest.mark.parametrize("end", [Told("j", "m", "FAILED", "x"), Told("j", "m", "COMPLETED", ["2:1:"])])
def test_a_webhook_that_tells_another_end(end: Told) -> None:
    assert "a receiver was told" in found(end)


def test_webhooks_with_different_ids() -> None:
    first = Told("j", "m", "COMPLETED", OUTPUT)
    assert found(first, first) == ""
    assert "several ids: ['m', 'n']" in found(first, Told("j", "n", "COMPLETED", OUTPUT))


def test_an_answer_that_no_client_should_get() -> None:
    assert found(Failed("500 for POST /run")) == "a client got 500 for POST /run"


def test_what_handlers_wrote_down(tmp_path: Path) -> None:
    history = History(tmp_path / "log")
    lines = [
        {"kind": "started", "job": "j", "attempt": 1, "clock": 5.0},
        {"kind": "wrote", "job": "j", "attempt": 1, "number": 1},
        {"kind": "returned", "job": "j", "attempt": 1},
        {"kind": "started", "job": "j", "attempt": 2, "clock": 6.0},
        {"kind": "ended", "job": "j", "attempt": 1},
    ]
    torn = '{"kind": "wro'  # its process was killed
    text = "".join(f"\n{json.dumps(line)}\n" for line in lines)
    history.log.write_text(f"\n{torn}{text}\n{torn}")
    history.add(Acknowledged("k", "j"))
    assert history.events == [
        Acknowledged("k", "j"),
        Started("j", 1),
        Wrote("j", 1, 1),
        Returned("j", 1),
        Started("j", 2),
    ]
    assert history.jobs == ["j"]
    assert history.starts("j") == [1, 2]
    assert history.written("j") == 1
    assert history.returned("j", 1)
    assert not history.returned("j", 2)
    assert history.running() == {("j", 2)}


@pytest.fixture
def client(server: Running) -> "Iterator[redis.Redis]":
    assert isinstance(server, Server)
    with server.client as client:
        yield client


@pytest.fixture
def base(client: "redis.Redis", endpoint: str) -> str:
    """An endpoint as one without jobs under way is left: what is permanent, and a job that expires."""
    base = f"runlane:{{{endpoint}}}"
    for queue in QUEUES:
        client.xgroup_create(f"{base}:queue:{queue}", "workers", "0", mkstream=True)
    client.hset(f"{base}:settings", "version", 1)
    client.hset(f"{base}:counts", mapping={"COMPLETED": 1, "entries:normal": 7})
    client.zadd(f"{base}:lifetimes", {"j": 1})
    client.set(f"{base}:job:j", "", ex=100)
    return base


def test_a_clean_store_passes(client: "redis.Redis", base: str, endpoint: str, tmp_path: Path) -> None:
    assert leftovers(client, endpoint) == []
    assert miscounted(client, endpoint, SUBMITTED) == []
    history = History(tmp_path / "log")
    for event in RETRIED:
        if isinstance(event, Submitted | Acknowledged):
            history.add(event)
    history.add(Seen("j", "CANCELLED"))
    check(history, client, endpoint)
    history.add(Seen("j", "TIMED_OUT"))
    with pytest.raises(AssertionError, match="two ends"):
        check(history, client, endpoint)


def test_an_entry_that_is_left(client: "redis.Redis", base: str, endpoint: str) -> None:
    client.xadd(f"{base}:queue:low", {"job": "j"})
    assert leftovers(client, endpoint) == ["queue low has 1 entries, 0 of them pending"]
    client.xreadgroup("workers", "w", {f"{base}:queue:low": ">"})
    assert leftovers(client, endpoint) == ["queue low has 1 entries, 1 of them pending"]


@pytest.mark.parametrize("name", ["timeouts", "delayed", "other:x"])
def test_a_key_that_is_left(name: str, client: "redis.Redis", base: str, endpoint: str) -> None:
    client.zadd(f"{base}:{name}", {"j": 1})
    assert leftovers(client, endpoint) == [f"key {name} is left"]


@pytest.mark.parametrize("name", ["job:a", "chunks:a", "worker:w", "idempotency:k"])
def test_a_key_that_never_expires(name: str, client: "redis.Redis", base: str, endpoint: str) -> None:
    client.set(f"{base}:{name}", "")
    assert leftovers(client, endpoint) == [f"key {name} never expires"]


@pytest.mark.parametrize("ends", [0, 2])
def test_more_or_fewer_ends_than_jobs(ends: int, client: "redis.Redis", base: str, endpoint: str) -> None:
    client.hset(f"{base}:counts", mapping={"COMPLETED": 0, "CANCELLED": ends})
    assert miscounted(client, endpoint, SUBMITTED) == [
        f"{ends} ends of jobs were committed; 1 to 1 jobs were submitted"
    ]
    # A submission whose answer never came may have made a job.
    assert (miscounted(client, endpoint, [*SUBMITTED, Submitted("lost")]) == []) == (ends == 2)

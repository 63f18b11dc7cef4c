"""Whether the time of an answer tells what its sender may not know: `python -m loadtest.bench.timing [--rounds 4000]`.

For each pair of requests, which have the same answer, it prints the medians and the p-value of a Mann-Whitney test
(two-sided, by its normal approximation, with ties): the chance that two samples of the same times differ as much. All
requests are sent over one connection, in a new random order each round, to a gateway and a store of its own, with
failed logins counted as usual but for the blocking of whoever has too many.

One pair in twenty has p < 0.05 when there is nothing to see; one that has it again in a second run is worth a look, and
the medians say how far they are apart.

`--check` compares each request with itself, for what the test says when there is surely nothing to see.
"""

import argparse
import http.client
import random
import statistics
import sys
import time
import uuid
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from ..significance import p_value
from .environment import HERE, NotMeasuredError, process, store, wait_for, without_traceback

PORT = 8127
OWNER, STRANGER = "acme:timing-of-acme", "acme-2:timing-of-another"
WARM_UP = 200
JOBS = 200


class Sent(NamedTuple):
    """A request."""

    method: str
    path: str
    key: str
    body: str | None = None


class Pair(NamedTuple):
    """Two requests, and what is asked of them."""

    what: str
    one: Sent
    two: Sent


@without_traceback()
def main() -> None:
    """Prints a line for each pair."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.timing", description="Compares the times of answers."
    )
    parser.add_argument("--rounds", type=int, default=4000)
    parser.add_argument("--check", action="store_true", help="compare each request with itself")
    given = parser.parse_args()
    with store() as running:
        settings = {
            "REDIS_URL": running.url, "ADMIN_KEYS": f"{OWNER},{STRANGER}", "RATE_LIMITS": "off", "AUDIT_LOG": "off",
            "FAILED_LOGINS": "10000", "FAILED_LOGIN_SECONDS": "1",
        }  # fmt: skip
        environment = {f"RUNLANE_{name}": value for name, value in settings.items()}
        base = f"http://127.0.0.1:{PORT}"
        with process([sys.executable, "-m", "gateway", "serve", "--port", str(PORT)], HERE, environment):
            wait_for(f"{base}/v1/keys")
            pairs = pairs_at(base)
            if given.check:
                pairs = [Pair(pair.what, pair.one, pair.one) for pair in pairs]
            compare(base, pairs, given.rounds)


def pairs_at(base: str) -> list[Pair]:
    """The pairs, once there is what they are about."""
    owner, stranger = (entry.partition(":")[2] for entry in (OWNER, STRANGER))
    with httpx.Client(base_url=base, headers={"Authorization": f"Bearer {owner}"}) as client:
        there, nowhere = f"e{uuid.uuid4().hex[:11]}", f"e{uuid.uuid4().hex[:11]}"
        client.post("/v1/endpoints", json={"id": there}).raise_for_status()
        jobs = [client.post(f"/v2/{there}/run", json={"input": number}).json()["id"] for number in range(JOBS)]
        key = client.post("/v1/keys", json={}).json()["id"]
        revoked = client.post("/v1/keys", json={}).json()
        client.delete(f"/v1/keys/{revoked['id']}").raise_for_status()
    wrong = "rl_" + "A" * (len(revoked["key"]) - 3)
    no_job, no_key, health = str(uuid.uuid4()), f"k{uuid.uuid4().hex[:16]}", f"/v2/{there}/health"
    nothing, unknown = f"/v2/{nowhere}/health", "nobody:" + wrong[: len(wrong) - 7]
    return [
        Pair("a wrong key / a revoked one", Sent("GET", health, wrong), Sent("GET", health, revoked["key"])),
        Pair("a wrong key / one of a tenant that is none", Sent("GET", health, wrong), Sent("GET", health, unknown)),
        Pair("a wrong key: an endpoint / none", Sent("GET", health, wrong), Sent("GET", nothing, wrong)),
        *(
            Pair(f"another's / none: {method} {path}", *(
                Sent(method, path.format(endpoint=ids[0], job=ids[1], key=ids[2]), stranger, body)
                for ids in ((there, jobs[0], key), (nowhere, no_job, no_key))
            ))
            for method, path, body in (
                ("GET", "/v2/{endpoint}/health", None), ("GET", "/v2/{endpoint}/status/{job}", None),
                ("POST", "/v2/{endpoint}/run", '{"input":1}'), ("GET", "/v2/{endpoint}/workers", None),
                ("POST", "/v2/{endpoint}/job-done/w/{job}", "{}"), ("GET", "/v1/endpoints/{endpoint}", None),
                ("GET", "/v1/keys/{key}", None),
            )
        ),
    ]  # fmt: skip


def compare(base: str, pairs: list[Pair], rounds: int) -> None:
    """Takes the times of all pairs in one run, and prints what they are."""
    connection = http.client.HTTPConnection(urlsplit(base).netloc)
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in pairs]
    order = [(number, which) for number in range(len(pairs)) for which in range(2)]
    for done in range(-WARM_UP, rounds):
        random.shuffle(order)
        for number, which in order:
            seconds = measured(connection, pairs[number][1 + which])
            if done >= 0:
                times[number][which].append(seconds)
    print(f"{'':58} medians, us      p")
    for pair, (one, two) in zip(pairs, times, strict=True):
        print(f"{pair.what:58} {us(one):6.1f} {us(two):6.1f}  {p_value(one, two):.3f}")


def us(seconds: list[float]) -> float:
    """The median in microseconds."""
    return statistics.median(seconds) * 1e6


def measured(connection: http.client.HTTPConnection, sent: Sent) -> float:
    """The seconds from the begin of a request to the end of its answer.

    Raises:
        NotMeasuredError: it was let in.
    """
    headers: dict[str, Any] = {"Authorization": f"Bearer {sent.key}"}
    began = time.perf_counter()
    connection.request(sent.method, sent.path, sent.body, headers)
    response = connection.getresponse()
    response.read()
    seconds = time.perf_counter() - began
    if response.status not in (401, 404):
        raise NotMeasuredError(f"{sent} was answered {response.status}")
    return seconds


if __name__ == "__main__":
    main()

"""`make bench`: starts everything itself, on loopback, and prints one table of ratios; writes bench.json."""

import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import redis

from gateway.engine import keys
from gateway.store import LIBRARY
from loadtest.bench import batches, openai_streams, parked, roundtrip
from loadtest.bench.environment import (
    ENDPOINT,
    KEY,
    gateway,
    gateway_process,
    headers,
    process,
    processors,
    say,
    started_on,
    store,
    wait_for,
    wait_for_worker,
    worker,
)
from loadtest.bench.openai_streams import Origin

CONNECTIONS = 64
CONNECTIONS_OF_BATCHES = 16
SECONDS = 1
ROUNDS = 15
ROUND_TRIPS = 1000
FEW, MANY = 10, 1_000_000
CALLS = 500
TOKENS_OF_STREAMS = {1: 20_000, 100: 1_000}
FIRST_BYTES = 200
TOKENS_FOR_FIRST_BYTE = 20
PARKED = 5000
JOBS_FOR_PARKED = 100

WRK_SCRIPT = """
wrk.method = "POST"
wrk.body = '{"input":{"prompt":"hello, this is a prompt","n":3}}'
wrk.headers["Authorization"] = "Bearer %s"
"""

REQUESTS = r"Requests/sec:\s+([\d.]+)"
MEDIAN_SCRIPT = """
done = function(summary, latency) print("median of " .. latency:percentile(50) .. " us") end
"""


def main() -> None:
    """Runs all measurements."""
    rows: list[dict[str, Any]] = []
    say("/run against a bare ASGI echo")
    rows.append(run_against_echo())
    say("/run with limits of requests against the same without")
    rows.append(run_with_limits())
    say("/runsync against a bare round trip through the store")
    rows.append(runsync_against_round_trip())
    say(f"take, cancel and health with {FEW} and {MANY:,} jobs queued")
    rows.extend(cost_by_queue_length())
    say("event streams through the OpenAI route against the same asked directly")
    rows.extend(relayed_streams())
    say("jobs in batches against the store's own XADD")
    rows.extend(accepted_jobs())
    say(f"{PARKED:,} workers that wait over HTTP")
    rows.extend(parked_workers())
    for row in rows:
        print(f"{row['what']:<34} {row['ours']:>22} {row['floor']:>26}   ratio {row['ratio']:.2f}  ({row['aim']})")
    Path("bench.json").write_text(json.dumps(rows, indent=2))


def run_against_echo() -> dict[str, Any]:
    """Requests/s of /run in one gateway process, and of the echo under the same server, in turn.

    Each of the two has a processor for itself; the store and wrk have the others. Else the scheduler's choice of who
    shares one with whom is what is measured.
    """
    ours, echo = [], []
    servers, others = processors()
    with started_on(others), store() as (url, folder):
        script = folder / "run.lua"
        script.write_text(WRK_SCRIPT % KEY)
        with started_on(servers), gateway(url) as base, process([sys.executable, "-m", "loadtest.bench.echo", "8125"]):
            wait_for("http://127.0.0.1:8125/")
            with started_on(others):
                for number in range(ROUNDS):
                    echo.append(wrk("http://127.0.0.1:8125/", script))
                    ours.append(wrk(f"{base}/v2/{ENDPOINT}/run", script))
                    say(f"  round {number + 1}: {ours[-1]:,.0f} and {echo[-1]:,.0f} requests/s")
                    httpx.post(f"{base}/v2/{ENDPOINT}/purge-queue", headers=headers(), timeout=120)
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, echo, strict=True))
    return row(
        "/run, 64 connections",
        f"{statistics.median(ours):,.0f} requests/s",
        f"{statistics.median(echo):,.0f} requests/s echo",
        ratio,
        "at least 0.5",
    )


def run_with_limits() -> dict[str, Any]:
    """Requests/s of /run in a gateway process that counts them, and in one that does not, in turn."""
    limited, free = [], []
    servers, others = processors()
    with started_on(others), store() as (url, folder):
        script = folder / "run.lua"
        script.write_text(WRK_SCRIPT % KEY)
        with started_on(servers), gateway(url) as base, gateway(url, 8128, "off") as other, started_on(others):
            for number in range(ROUNDS):
                for place, found in ((base, limited), (other, free))[:: 1 if number % 2 else -1]:
                    found.append(wrk(f"{place}/v2/{ENDPOINT}/run", script))
                say(f"  round {number + 1}: {limited[-1]:,.0f} and {free[-1]:,.0f} requests/s")
                httpx.post(f"{base}/v2/{ENDPOINT}/purge-queue", headers=headers(), timeout=120)
    return row(
        "/run with limits",
        f"{statistics.median(limited):,.0f} requests/s",
        f"{statistics.median(free):,.0f} requests/s without",
        statistics.median(counted / uncounted for counted, uncounted in zip(limited, free, strict=True)),
        "at least 0.9",
    )


def accepted_jobs() -> list[dict[str, Any]]:
    """Jobs/s that one gateway process accepts over HTTP, so many in a request, and the entries/s that its store takes
    into a stream when nothing is between, in turn."""
    program = batches.benchmark_program()
    if program is None:
        say("  left out: it needs redis-benchmark (apt-get install redis-tools) or valkey-benchmark")
        return []
    accepted: dict[int, list[float]] = {size: [] for size in batches.SIZES}
    xadds = []
    servers, others = processors()
    with started_on(others), store() as (url, folder), started_on(servers), gateway(url) as base:
        script = folder / "batch.lua"
        for number in range(ROUNDS):
            xadds.append(batches.xadds_per_second(program, url))
            with started_on(others):
                for size, found in accepted.items():
                    script.write_text(batches.script(KEY, ENDPOINT, size))
                    requests = _figure_of_wrk(f"{base}{batches.path(size)}", script, CONNECTIONS_OF_BATCHES, REQUESTS)
                    found.append(requests * size)
                    httpx.delete(f"{base}/api/queues/{ENDPOINT}?force=true", headers=headers(), timeout=120)
            shown = ", ".join(f"{found[-1]:,.0f}" for found in accepted.values())
            say(f"  round {number + 1}: {shown} jobs/s; {xadds[-1]:,.0f} XADD/s")
    aim = f"at 100 at least {batches.target(statistics.median(xadds)):,.0f}"
    return [
        row(f"/queue/add{'-batch' if size > 1 else ''}, {size:,} a request", f"{statistics.median(found):,.0f} jobs/s",
            f"{statistics.median(xadds):,.0f} XADD/s",
            statistics.median(ours / alone for ours, alone in zip(found, xadds, strict=True)), aim)
        for size, found in accepted.items()
    ]  # fmt: skip


def runsync_against_round_trip() -> dict[str, Any]:
    """Median time of a /runsync by one client with an echo handler, and of a bare round trip, in turn."""
    ours, bare = [], []
    with store() as (url, folder), gateway(url) as base, worker(base):
        script = folder / "runsync.lua"
        script.write_text(WRK_SCRIPT % KEY + MEDIAN_SCRIPT)
        wait_for_worker(base)
        for number in range(ROUNDS):
            ours.append(median_by_wrk(f"{base}/v2/{ENDPOINT}/runsync", script))
            bare.append(roundtrip.measure(url, ROUND_TRIPS))
            say(f"  round {number + 1}: {ours[-1] * 1000:.2f} ms and {bare[-1] * 1000:.2f} ms")
        check_that_all_completed(base, at_least=round(ROUNDS * SECONDS / max(ours) / 2))
    return row(
        "/runsync, one client, median",
        f"{statistics.median(ours) * 1000:.2f} ms",
        f"{statistics.median(bare) * 1000:.2f} ms bare",
        statistics.median(mine / theirs for mine, theirs in zip(ours, bare, strict=True)),
        "under 3",
    )


def relayed_streams() -> list[dict[str, Any]]:
    """Tokens per second and the time to the first byte of event streams, relayed and asked of their server directly, in
    turn."""
    rows = []
    server = [sys.executable, "-m", "loadtest.bench.openai_streams", "8127"]
    proxy = Path(__file__).parents[1] / "handler_sdk/examples/openai_proxy.py"
    with store() as (url, _), gateway(url) as base, process(server):
        direct, ours = Origin("http://127.0.0.1:8127", KEY), Origin(f"{base}/v2/{ENDPOINT}/openai", KEY)
        wait_for(direct.url)
        with worker(base, proxy, UPSTREAM_URL=direct.url, UPSTREAM_CONCURRENCY="100"):
            wait_for_worker(base)
            for streams, tokens in TOKENS_OF_STREAMS.items():
                rows.append(relayed_tokens(ours, direct, streams, tokens))
            rows.append(first_byte(ours, direct))
    return rows


def relayed_tokens(ours: Origin, direct: Origin, streams: int, tokens: int) -> dict[str, Any]:
    """Tokens per second of so many streams at once."""
    relayed, asked = [], []
    for number in range(ROUNDS):
        asked.append(openai_streams.tokens_per_second(direct, streams, tokens))
        relayed.append(openai_streams.tokens_per_second(ours, streams, tokens))
        say(f"  round {number + 1}, {streams} at once: {relayed[-1]:,.0f} and {asked[-1]:,.0f} tokens/s")
    return row(
        f"OpenAI streams, {streams} at once",
        f"{statistics.median(relayed):,.0f} tokens/s",
        f"{statistics.median(asked):,.0f} tokens/s direct",
        statistics.median(mine / theirs for mine, theirs in zip(relayed, asked, strict=True)),
        "at least 0.6",
    )


def first_byte(ours: Origin, direct: Origin) -> dict[str, Any]:
    """Time to the first byte of a stream, one after the other."""
    relayed, asked = openai_streams.first_bytes([ours, direct], FIRST_BYTES, TOKENS_FOR_FIRST_BYTE)
    added = statistics.median(mine - theirs for mine, theirs in zip(relayed, asked, strict=True))
    return row(
        "OpenAI stream, first byte, median",
        f"{statistics.median(relayed) * 1000:.2f} ms",
        f"{statistics.median(asked) * 1000:.2f} ms direct",
        statistics.median(relayed) / statistics.median(asked),
        f"{added * 1000:.2f} ms added, under 5",
    )


def parked_workers() -> list[dict[str, Any]]:
    """What workers cost that wait over HTTP, and how soon one of them has a job."""
    with store() as (url, _), gateway_process(url) as (base, pid):
        found = asyncio.run(parked.measure(base, pid, ENDPOINT, KEY, url, PARKED, JOBS_FOR_PARKED))
    return [
        row(f"{PARKED:,} parked workers, memory", f"{found.bytes_each / 1000:.1f} kB each", "40 kB",
            found.bytes_each / 40_000, "at most 1"),
        row(f"{PARKED:,} parked, store connections", f"{found.store_connections}", "16",
            found.store_connections / 16, "at most 1"),
        row(f"{PARKED:,} parked, a job's way, median", f"{found.median_seconds * 1000:.2f} ms", "50 ms",
            found.median_seconds / 0.05, "at most 1"),
    ]  # fmt: skip


def cost_by_queue_length() -> list[dict[str, Any]]:
    """Median time of one call with few and with many jobs queued, in turn."""
    with store() as (url, _):
        with gateway(url):
            pass  # loads the functions
        client = redis.Redis.from_url(url)
        few, many = Queue(client, "few", FEW), Queue(client, "many", MANY)
        for number in range(CALLS):
            few.measure(number)
            many.measure(number)
    return [
        row(f"{name}, {MANY:,} queued", f"{many.median(name) * 1e6:.0f} us",
            f"{few.median(name) * 1e6:.0f} us with {FEW}", many.median(name) / few.median(name), "the same")
        for name in few.times
    ]  # fmt: skip


class Queue:
    """An endpoint with jobs queued, and the times of operations on it."""

    def __init__(self, client: "redis.Redis", endpoint: str, length: int) -> None:
        self.times: dict[str, list[float]] = {"take": [], "cancel": [], "health": []}
        self._client = client
        self._base = keys.base(endpoint)
        self._ids: list[str] = []
        self._call("configure", "")
        while len(self._ids) < length:
            jobs = [submission() for _ in range(min(500, length - len(self._ids)))]
            self._call("submit", *(argument for job in jobs for argument in job))
            self._ids += [str(job[0]) for job in jobs]
            if len(self._ids) % 200_000 == 0:
                say(f"  {len(self._ids):,} jobs queued")

    def measure(self, number: int) -> None:
        """Takes the time of each operation once; a job taken or cancelled is replaced."""
        taken = self._timed("take", "bench", 1)[0]
        self._call("finish", taken[0], taken[1], "COMPLETED", "output", "1")
        self._call("submit", *submission())
        replacement = submission()
        self._call("submit", *replacement)
        in_the_middle = number % 2 and len(self._ids) > FEW
        self._timed("cancel", self._ids[-number - 1] if in_the_middle else str(replacement[0]))
        self._timed("health")

    def median(self, name: str) -> float:
        """Of the times of an operation, in seconds."""
        return statistics.median(self.times[name])

    def _timed(self, name: str, *arguments: str | int) -> Any:
        began = time.perf_counter()
        reply = self._call(name, *arguments)
        self.times[name].append(time.perf_counter() - began)
        return reply

    def _call(self, name: str, *arguments: str | int) -> Any:
        return self._client.fcall(f"{LIBRARY}_{name}", 1, self._base, *arguments)


def submission() -> tuple[str | int, ...]:
    """The arguments of one job for the function `submit`."""
    return (str(uuid.uuid4()), '{"n":1}', "normal", 600_000, 86_400_000, 60_000, "", "", "", "", "", 1, "", "", "")


def row(what: str, ours: str, floor: str, ratio: float, aim: str) -> dict[str, Any]:
    """A line of the table."""
    return {"what": what, "ours": ours, "floor": floor, "ratio": round(ratio, 3), "aim": aim}


def wrk(url: str, script: Path) -> float:
    """Requests per second; every answer must be a 2xx."""
    return _figure_of_wrk(url, script, CONNECTIONS, REQUESTS)


def median_by_wrk(url: str, script: Path) -> float:
    """Median time of a request of one client, in seconds; every answer must be a 2xx. (wrk could look into each answer,
    but its interpreter would take a part of the time that is measured.)"""
    return _figure_of_wrk(url, script, 1, r"median of ([\d.]+) us") / 1e6


def _figure_of_wrk(url: str, script: Path, connections: int, pattern: str) -> float:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}", "-s", str(script), url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in output:
        raise SystemExit(f"{url} answered with errors:\n{output}")
    found = re.search(pattern, output)
    assert found is not None, output
    return float(found.group(1))


def check_that_all_completed(base: str, at_least: int) -> None:
    """Ends the program unless so many jobs were COMPLETED, and none ended otherwise."""
    jobs = httpx.get(f"{base}/v2/{ENDPOINT}/health", headers=headers()).json()["jobs"]
    if jobs["completed"] < at_least or jobs["failed"] or jobs["retried"]:
        raise SystemExit(f"not all jobs were completed: {jobs}")


if __name__ == "__main__":
    main()

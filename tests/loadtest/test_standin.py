"""What only a server shows that behaves badly on purpose."""

import time
from collections import Counter
from pathlib import Path

from aiohttp import web
from click.testing import CliRunner

from loadtest.cli import main

from .running import KEY, measure, run
from .standin import StandIn, accepted

STALL_SECONDS = 0.6

EXACT = 0.999
"""A histogram keeps times to a thousandth."""


def stall_once(standin: StandIn) -> None:
    """Its 50th answer, and all that come meanwhile, take this long."""

    async def respond(request: web.Request) -> web.StreamResponse:
        if standin.posts == 50:
            time.sleep(STALL_SECONDS)  # noqa: ASYNC251  (all of the server is to stand still)
        return await accepted(request)

    standin.respond = respond


def test_an_open_loop_shows_a_stall_that_service_times_do_not(standin: StandIn, tmp_path: Path) -> None:
    stall_once(standin)
    results = measure(
        tmp_path, "run", standin.url, "--no-follow", "--rate", 200, "--connections", 1, "--duration", "2s"
    )
    latency, service = results.timings["latency"], results.timings["service"]
    assert results.totals.succeeded == results.totals.offered == 400
    assert service.max >= STALL_SECONDS * 1000 * EXACT
    assert latency.p99 >= STALL_SECONDS * 1000 / 2
    assert latency.p90 > 2 * service.p90
    assert latency.p90 > 2 * results.timings["late"].p90  # it is no fault of the tool


def test_a_closed_loop_hides_it(standin: StandIn, tmp_path: Path) -> None:
    stall_once(standin)
    results = measure(tmp_path, "run", standin.url, "--no-follow", "--connections", 1, "--duration", "1s")
    latency = results.timings["latency"]
    assert latency.max >= STALL_SECONDS * 1000 * EXACT
    assert latency.p90 < STALL_SECONDS * 1000 / 2
    assert latency.p90 < 2 * results.timings["service"].p90


def test_each_error_has_its_class(standin: StandIn, tmp_path: Path) -> None:
    def fail(status: int, text: str, **headers: str) -> web.Response:
        return web.Response(status=status, text=text, headers=headers)

    async def respond(request: web.Request) -> web.StreamResponse:
        kind = standin.posts % 6
        if kind == 5:
            assert request.transport is not None
            request.transport.abort()
        return (
            fail(429, "slow down", **{"Retry-After": "7"}), fail(500, f"your key is {KEY}"), fail(200, "<html>"),
            fail(200, '{"status": "IN_QUEUE"}'), fail(302, "", Location="http://127.0.0.1:9/"), fail(200, ""),
        )[kind]  # fmt: skip

    standin.respond = respond
    results = measure(tmp_path, "run", standin.url, "--rate", 30, "--duration", "1s")
    counts = Counter({kind: each.count for kind, each in results.errors.items()})
    assert counts == {"http_429": 5, "http_500": 5, "invalid": 10, "http_302": 5, "reset": 5}
    assert results.errors["http_429"].example == "slow down"
    assert results.errors["http_500"].example == "your key is ***"
    assert results.totals.retry_after_seconds == 7
    assert (results.totals.error_share, results.totals.throughput) == (1.0, 0.0)
    assert "latency" not in results.timings


def test_a_job_that_does_not_end_is_unfinished_and_polls_heed_retry_after(standin: StandIn, tmp_path: Path) -> None:
    polls = 0

    async def respond_about(_: web.Request) -> web.StreamResponse:
        nonlocal polls
        polls += 1
        if polls == 1:
            return web.Response(status=429, headers={"Retry-After": "0"})
        status = "COMPLETED" if polls <= 2 else "IN_PROGRESS"
        return web.json_response({"id": "job-1", "status": status})

    standin.respond_about = respond_about
    arguments = ("--rate", 2, "--duration", "1s", "--timeout", "1s")
    results = measure(tmp_path, "run", standin.url, *arguments)
    assert {kind: each.count for kind, each in results.errors.items()} == {"unfinished": 1}
    assert results.totals.counts == {"jobs": 2, "throttled_polls": 1}
    assert results.totals.succeeded == 1


def test_what_nobody_expects_of_a_server_is_an_error_like_others(standin: StandIn, tmp_path: Path) -> None:
    """A date that is none, times that are none, a line without an end."""

    async def respond(request: web.Request) -> web.StreamResponse:
        if standin.posts % 2:
            headers = {"Retry-After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}
            return web.Response(status=429, headers=headers)
        return web.json_response({"id": "j", "status": "COMPLETED", "delayTime": 1.7e308, "executionTime": -3})

    standin.respond = respond
    results = measure(tmp_path, "runsync", standin.url, "--rate", 10, "--duration", "1s")
    assert (results.errors["http_429"].count, results.totals.succeeded) == (5, 5)

    async def endless_line(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"data: " + b"x" * 3_000_000)

    standin.respond = endless_line
    results = measure(tmp_path, "openai", standin.url, "--rate", 5, "--duration", "1s")
    assert {kind: each.count for kind, each in results.errors.items()} == {"invalid": 5}


def test_a_stream_that_hangs_has_a_latency_and_a_failed_job_none(standin: StandIn, tmp_path: Path) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        if standin.posts % 2:
            return web.json_response({"id": "job-1", "status": "FAILED", "error": "no"})
        return await standin.hold(request)

    standin.respond_about = hang
    arguments = ("--rate", 1, "--duration", "2s", "--timeout", "1s")
    results = measure(tmp_path, "stream", standin.url, *arguments)
    assert {kind: each.count for kind, each in results.errors.items()} == {"job_failed": 1, "unfinished": 1}
    assert results.timings["latency"].count == 1
    assert results.timings["latency"].p50 >= 1000 * EXACT


def test_what_waits_for_a_connection_gives_up_as_well(standin: StandIn, tmp_path: Path) -> None:
    """Else a server that answers nothing would keep the test for hours."""
    standin.respond = standin.hold
    arguments = ("--rate", 20, "--connections", 2, "--duration", "1s", "--timeout", "1s", "--no-follow")
    results = measure(tmp_path, "run", standin.url, *arguments)
    assert {kind: each.count for kind, each in results.errors.items()} == {"timeout": 20}
    assert results.series[-1].second <= 3
    assert results.timings["latency"].count == 20
    assert results.timings["latency"].p50 >= 1000 * EXACT


def test_a_job_that_outlasts_runsync_is_followed(standin: StandIn, tmp_path: Path) -> None:
    looks = 0

    async def respond_about(_: web.Request) -> web.StreamResponse:
        nonlocal looks
        looks += 1
        return web.json_response({"id": "job-1", "status": "COMPLETED" if looks > 1 else "IN_PROGRESS"})

    standin.respond_about = respond_about
    results = measure(tmp_path, "runsync", standin.url, "--rate", 1, "--duration", "1s")
    assert (results.totals.succeeded, looks) == (1, 2)


def test_what_is_beyond_the_cap_is_not_sent_and_an_error(standin: StandIn, tmp_path: Path) -> None:
    standin.respond = standin.hold
    arguments = ("--rate", 20, "--duration", "1s", "--timeout", "2s", "--most-open", 5)
    results = measure(tmp_path, "run", standin.url, *arguments)
    assert {kind: each.count for kind, each in results.errors.items()} == {"not_sent": 15, "timeout": 5}
    assert (results.totals.offered, results.totals.sent, standin.posts) == (20, 5, 5)
    assert results.timings["latency"].count == 5
    assert results.timings["latency"].p50 >= 2000 * EXACT


def test_a_ramp_finds_the_knee_and_stops(standin: StandIn, tmp_path: Path) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        return await accepted(request) if standin.posts <= 60 else web.Response(status=503)

    standin.respond = respond
    arguments = ("--ramp", "10:40", "--steps", 4, "--step", "2s", "--knee-p99", "30s", "--no-follow")
    results = measure(tmp_path, "run", standin.url, *arguments)
    assert results.ramp is not None
    assert [step.offered_rate for step in results.ramp.steps] == [10, 20, 30]
    assert [bool(step.trouble) for step in results.ramp.steps] == [False, False, True]
    assert (results.ramp.knee, results.ramp.reached) == (20, True)
    assert not results.interrupted
    assert results.errors.keys() == {"http_503"}


def test_batches_need_their_route(standin: StandIn) -> None:
    done = CliRunner().invoke(main, ["batch", standin.url])
    assert (done.exit_code, done.stdout, standin.posts) == (2, "", 0)
    assert "has no /queue/add-batch" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_server_that_refuses_the_first_job_is_told_of(standin: StandIn) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.Response(status=403, text=f"{KEY} may not submit")

    standin.respond = refuse
    done = run("mixed", standin.url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "runlane-load: the server refuses a job: http_403: *** may not submit\n"

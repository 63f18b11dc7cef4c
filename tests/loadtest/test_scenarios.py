"""Every scenario, by the command line, at a real gateway with a real worker."""

import json
import re
from pathlib import Path

import httpx
import pytest

from loadtest.histogram import Histogram
from loadtest.results import Results

from .running import KEY, measure, run


def check_sums(results: Results) -> None:
    """What is told twice is the same, and all that was to be sent was, and went well."""
    totals = results.totals
    assert totals.offered == totals.sent == totals.succeeded > 0
    assert (totals.failed, totals.abandoned, results.errors) == (0, 0, {})
    assert sum(second.succeeded for second in results.series) == totals.succeeded
    assert sum(second.offered for second in results.series) == totals.offered
    for timing in results.timings.values():
        assert Histogram.decode(timing.histogram).count == timing.count
        assert timing.p50 <= timing.p90 <= timing.p99 <= timing.p99_9 <= timing.max
    assert results.timings["latency"].count == results.timings["service"].count == totals.sent


def test_run_follows_its_jobs_and_writes_a_page(url: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    results = measure(tmp_path, "run", url, "--rate", 40, "--duration", "2s", "--warm-up", "500ms", "--html", page)
    check_sums(results)
    assert results.totals.offered == 80  # and none of the 20 of the warm-up
    assert {results.timings[name].count for name in ("job", "delay", "execution")} == {80}
    assert results.timings["job"].p50 >= results.timings["latency"].p50
    assert results.server.workers["ready"] == 1
    text = page.read_text()
    assert KEY not in text
    figures = re.findall(r'<h2>([^<]*)</h2><template class="figure">', text)
    assert figures == [
        "Throughput", "Latency, from the intended time of sending", "Queue delay, as the server says",
        "Execution time, as the server says", "Unfinished operations", "Latency by percentile",
    ]  # fmt: skip
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)=["']""", text)


def test_run_without_following(url: str, tmp_path: Path) -> None:
    results = measure(tmp_path, "run", url, "--no-follow", "--rate", 30, "--arrivals", "poisson", "--duration", "1s")
    check_sums(results)
    assert set(results.timings) == {"latency", "service", "late", "lag"}


def test_runsync_in_a_closed_loop_of_two_processes(url: str, tmp_path: Path) -> None:
    results = measure(tmp_path, "runsync", url, "--connections", 4, "--processes", 2, "--duration", "1s")
    check_sums(results)
    assert results.parameters.rate is None
    assert results.totals.counts == {"jobs": results.totals.sent}
    assert results.timings["execution"].count == results.totals.sent
    assert max(second.open for second in results.series) <= 4


def test_stream(url: str, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs.jsonl"
    inputs.write_text('{"prompt": "a b"}\n{"prompt": "a b c d"}\n')
    results = measure(tmp_path, "stream", url, "--rate", 20, "--duration", "1s", "--input", f"@{inputs}")
    check_sums(results)
    assert results.totals.counts == {"jobs": 20, "chunks": 60}
    assert (results.timings["first_chunk"].count, results.timings["chunk_gap"].count) == (20, 40)
    assert results.timings["first_chunk"].p50 <= results.timings["latency"].p50


def test_openai(url: str, tmp_path: Path) -> None:
    results = measure(tmp_path, "openai", url, "--rate", 20, "--duration", "1s")
    check_sums(results)
    assert results.totals.counts == {"tokens": 60}
    assert 0 < results.totals.counted_rates["tokens"] <= 60
    assert (results.timings["first_token"].count, results.timings["token_gap"].count) == (20, 40)


def test_batch(url: str, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    before = httpx.get(f"{url}/health", headers=headers).json()["jobs"]
    results = measure(tmp_path, "batch", url, "--rate", 10, "--jobs", 7, "--duration", "1s")
    after = httpx.get(f"{url}/health", headers=headers).json()["jobs"]
    check_sums(results)
    assert results.totals.counts == {"jobs": 70}
    assert sum(after.values()) - sum(before.values()) == 70


def test_mixed(url: str, tmp_path: Path) -> None:
    weights = "run=3,runsync=1,stream=1,status=2,cancel=1"
    results = measure(tmp_path, "mixed", url, "--rate", 80, "--duration", "1s", "--weights", weights)
    assert results.errors == {}
    counts = {name: results.timings[name].count for name in ("run", "runsync", "stream", "status", "cancel")}
    assert sum(counts.values()) == results.timings["latency"].count == 80
    assert results.timings["job"].count == counts["run"]


def test_burst(url: str, tmp_path: Path) -> None:
    results = measure(tmp_path, "burst", url, "--rate", 40, "--period", "500ms", "--duration", "1s", "--no-follow")
    check_sums(results)
    assert results.totals.offered == 40
    assert results.parameters.arrivals == "burst"


def test_soak_says_what_has_changed(url: str, tmp_path: Path) -> None:
    results = measure(tmp_path, "soak", url, "--rate", 10, "--duration", "4s", "--weights", "runsync=1")
    check_sums(results)
    assert results.drift is not None
    assert (results.drift.first.begin, results.drift.last.begin) == (0, 3)
    assert results.drift.first.offered_rate == pytest.approx(results.drift.last.offered_rate, rel=0.5)


def test_what_is_printed_with_a_key_from_a_file(url: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    done = run("runsync", url, "--rate", 10, "--duration", "1s", "--key-file", file, key="rl-not-this-one")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^1 s: offered 10/s, succeeded \d+/s, p50 \S+ ms, p99 \S+ ms", done.stderr, re.MULTILINE)
    assert done.stdout.startswith(f"runsync at {url}: open loop at 10/s (constant) for 1 s, 1 process\n")
    for name in ("Totals", "Times", "latency", "service", "delay", "execution"):
        assert re.search(rf"^ ?{name}\b", done.stdout, re.MULTILINE), name


def test_failed_jobs_are_errors(url: str, tmp_path: Path) -> None:
    given = json.dumps({"fail": "<script>alert(1)</script>"})
    page = tmp_path / "page.html"
    results = measure(tmp_path, "run", url, "--rate", 10, "--duration", "1s", "--input", given, "--html", page)
    assert results.errors["job_failed"].count == results.totals.failed == 10
    assert "<script>alert(1)" in results.errors["job_failed"].example
    assert "&lt;script&gt;alert(1)" in page.read_text()
    assert "<script>alert" not in page.read_text()

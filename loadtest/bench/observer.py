"""Asks a server for nothing much, again and again, until its standard input ends; prints the longest wait in seconds.

A process of its own: in that of another client, it would wait for that one too. The time for which it was ready to run
and another process had its processor is not the server's, and does not count.
"""

import contextlib
import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from .environment import HERE


class Observed:
    """What was seen, once it is over."""

    longest = 0.0


@contextlib.contextmanager
def observing(url: str) -> Iterator[Observed]:
    """Has the server at this URL observed meanwhile."""
    command = [sys.executable, "-m", "loadtest.bench.observer", url]
    observed = Observed()
    process = subprocess.Popen(command, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield observed
    finally:
        process.stdin.close()
        observed.longest = float(process.stdout.readline())
        process.wait()


def _observe(url: str) -> float:
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    longest = 0.0
    while not over.is_set():
        began, waited = time.perf_counter(), _seconds_ready()
        connection.request("GET", "/")
        connection.getresponse().read()
        if longest == 0.0:
            print("ready", flush=True)
        longest = max(longest, time.perf_counter() - began - (_seconds_ready() - waited))
    return longest


def _seconds_ready() -> float:
    """For how long this thread has waited for a processor since it began:
    https://docs.kernel.org/scheduler/sched-stats.html"""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


if __name__ == "__main__":
    print(_observe(sys.argv[1]), flush=True)

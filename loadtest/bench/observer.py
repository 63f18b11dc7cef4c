"""Asks a server for nothing much, again and again, until its standard input ends; prints the longest wait in seconds.

A process of its own: in that of another client, it would wait for that one too.
"""

import contextlib
import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
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
        began = time.perf_counter()
        connection.request("GET", "/")
        connection.getresponse().read()
        if longest == 0.0:
            print("ready", flush=True)
        longest = max(longest, time.perf_counter() - began)
    return longest


if __name__ == "__main__":
    print(_observe(sys.argv[1]), flush=True)

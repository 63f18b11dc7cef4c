"""The floor of a /runsync: a job handed over and its result handed back through the store, with nothing around it.

A client adds an entry to a stream, a worker process waiting in XREADGROUP takes it and pushes the reply to a list, on
which the client waits.
"""

import statistics
import subprocess
import sys
import time
import uuid

import redis

STREAM, GROUP = "bare:queue", "workers"
BODY = b'{"input":{"prompt":"hello","n":3}}'


def worker(url: str) -> None:
    """Answers until it is ended."""
    client = redis.Redis.from_url(url)
    client.xgroup_create(STREAM, GROUP, mkstream=True)
    print("ready", flush=True)
    while True:
        for _, entries in client.xreadgroup(GROUP, "one", {STREAM: ">"}, count=1, block=1000) or ():
            for entry, fields in entries:
                pipeline = client.pipeline(transaction=False)
                pipeline.rpush(fields[b"reply"], fields[b"body"])
                pipeline.xack(STREAM, GROUP, entry)
                pipeline.xdel(STREAM, entry)
                pipeline.execute()


def measure(url: str, count: int) -> float:
    """The median of `count` round trips, in seconds."""
    process = subprocess.Popen([sys.executable, "-m", "loadtest.bench.roundtrip", url], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    client = redis.Redis.from_url(url)
    times = []
    for _ in range(count):
        reply = f"bare:reply:{uuid.uuid4()}"
        began = time.perf_counter()
        client.xadd(STREAM, {"reply": reply, "body": BODY})
        client.blpop([reply], timeout=5)
        times.append(time.perf_counter() - began)
    process.kill()
    process.wait()
    client.delete(STREAM)
    return statistics.median(times)


if __name__ == "__main__":
    worker(sys.argv[1])

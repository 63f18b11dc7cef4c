"""Jobs that come many in a request, and what the store alone takes into a stream."""

import re
import shutil
import subprocess
from urllib.parse import urlsplit

import orjson
import redis

SIZES = (1, 10, 100, 1000)
XADDS = 200_000
PIPELINED = 16
"""As in the examples of Redis's own pages on benchmarks: https://redis.io/docs/latest/operate/oss_and_stack/management/optimization/benchmarks/"""

KEY = "bench:xadd"
TARGET, TARGET_XADDS = 60_000, 258_000
"""Jobs/s at 100 in a request that there should be where the store alone takes so many entries/s."""

_PAYLOAD = {"prompt": "hello, this is a prompt", "n": 3}


def script(key: str, queue: str, size: int) -> str:
    """For wrk: requests with so many jobs each; one goes to /queue/add, more to /queue/add-batch."""
    body = {"queue": queue, "timeout": 300}
    body |= {"data": _PAYLOAD} if size == 1 else {"jobs": [{"timeout": 300, "data": _PAYLOAD}] * size}
    return f"""
wrk.method = "POST"
wrk.body = '{orjson.dumps(body).decode()}'
wrk.headers["Authorization"] = "Bearer {key}"
"""


def path(size: int) -> str:
    """Where such requests go."""
    return "/queue/add" if size == 1 else "/queue/add-batch"


def target(xadds: float) -> float:
    """Jobs/s at 100 in a request that there should be, by the store's own entries/s."""
    return TARGET * xadds / TARGET_XADDS


def benchmark_program() -> str | None:
    """The store's own; None when there is none here."""
    return shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")


def xadds_per_second(program: str, url: str) -> float:
    """Entries per second that the store at a URL takes into a stream, pipelined, as its own program measures it."""
    parts = urlsplit(url)
    place = ["-s", parts.path] if parts.scheme == "unix" else ["-h", str(parts.hostname), "-p", str(parts.port)]
    if parts.password:
        place += ["-a", parts.password]
    command = [
        program,
        *place,
        "-P",
        str(PIPELINED),
        "-n",
        str(XADDS),
        "-q",
        "XADD",
        KEY,
        "*",
        "job",
        "0123456789abcdef",
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    with redis.Redis.from_url(url) as client:
        client.delete(KEY)
    rates = re.findall(r"([\d.]+) requests per second", output)
    return float(rates[-1])

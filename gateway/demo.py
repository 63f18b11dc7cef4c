"""`runlane demo`: one job through the whole system, with what comes back and when."""

import contextlib
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import resources

import httpx

from .dev import say
from .errors import StartupError

ENDPOINT = "keywords"


def run() -> None:
    """Starts store, gateway and worker, submits a job and prints its chunks as they arrive.

    Raises:
        StartupError: the system did not start, or the job did not complete.
    """
    text = str(importlib.metadata.metadata("runlane").json["description"])  # the README
    with (
        tempfile.TemporaryDirectory(prefix="runlane-demo-") as data,
        _system(data) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        say(f"\nPOST {url}/run  (the README, {len(text.split()):,} words)")
        began = time.monotonic()
        id = client.post("/run", json={"input": {"text": text}}).raise_for_status().json()["id"]
        say(f"job {id}\n")
        job = _follow(client, id, began)
        say(f"\nGET /status/{id}\n{client.get(f'/status/{id}').text}")
        say(f"\nGET /health\n{_pretty(client.get('/health').json())}\n")
    if job["status"] != "COMPLETED":
        raise StartupError(f"the job ended as {job['status']}")


def _follow(client: httpx.Client, id: str, began: float) -> dict[str, object]:
    headers = {"Accept": "text/event-stream"}
    event = "message"
    with client.stream("GET", f"/stream/{id}", headers=headers) as response:
        for line in _lines(response.iter_bytes()):
            field, _, value = line.partition(": ")
            if field == "event":
                event = value
            elif field == "data" and event == "message":
                say(f"{time.monotonic() - began:7.3f} s  {json.dumps(json.loads(value)['output'], ensure_ascii=False)}")
            elif field == "data" and event == "done":
                job: dict[str, object] = json.loads(value)
                return job
    raise StartupError("the stream ended before the job did")


def _lines(parts: Iterator[bytes]) -> Iterator[str]:
    rest = b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\r\n")
        for line in lines:
            yield line.decode()


@contextlib.contextmanager
def _system(data: str) -> Iterator[str]:
    handler = resources.files("handler_sdk.examples").joinpath("keywords.py")
    command = ["dev", str(handler), "--endpoint", ENDPOINT, "--port", "0", "--data", data]
    process = subprocess.Popen([sys.executable, "-m", "gateway", *command], stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout or ():
            say(line.rstrip())
            if line.startswith("ready "):
                yield line.split()[1]
                break
        else:
            raise StartupError("the system did not start; see above")
    finally:
        process.terminate()
        process.wait()


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)

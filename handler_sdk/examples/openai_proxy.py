"""A worker in front of any OpenAI-compatible server on its machine: vLLM, llama.cpp, Ollama. An async generator.
Needs aiohttp and httpx (`pip install 'runlane[examples]'`): with httpx alone, reading the server's answers took most of
the time.

    UPSTREAM_URL=http://127.0.0.1:11434 runlane dev handler_sdk/examples/openai_proxy.py --endpoint llm
    UPSTREAM_COMMAND='vllm serve MODEL --port 8001' UPSTREAM_URL=http://127.0.0.1:8001 runlane worker …/openai_proxy.py

Input: what the gateway makes of a request to /v2/llm/openai/v1/…. Output: the server's answer, in pieces as they come,
whether it is a stream or not. The environment:

    UPSTREAM_URL            where the server is, without /v1 (default http://127.0.0.1:8000)
    UPSTREAM_COMMAND        starts the server unless it runs already; when it ends, the worker begins anew with both
    UPSTREAM_API_KEY        the server's key, if it wants one
    UPSTREAM_CONCURRENCY    jobs at once (default 32)
    UPSTREAM_START_SECONDS  how long the server may take to load its model (default 600)
"""

import asyncio
import codecs
import json
import os
import shlex
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import aiohttp
import httpx
from httpx import codes

import handler_sdk

URL = os.environ.get("UPSTREAM_URL", "http://127.0.0.1:8000").rstrip("/")
COMMAND = os.environ.get("UPSTREAM_COMMAND", "")
KEY = os.environ.get("UPSTREAM_API_KEY", "")
CONCURRENCY = int(os.environ.get("UPSTREAM_CONCURRENCY", "32"))
START_SECONDS = float(os.environ.get("UPSTREAM_START_SECONDS", "600"))

HEADERS = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {KEY}"} if KEY else {})
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)  # the endpoint's execution timeout counts
TEXTS = ("application/json", "text/")
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_REPORTS = 10.0


async def handler(job: dict[str, Any]) -> AsyncIterator[str | dict[str, Any]]:
    given = job["input"]
    route = given.get("openai_route") if isinstance(given, dict) else None
    if not (isinstance(route, str) and route.startswith("/v1/") and "/.." not in unquote(route)):
        yield {"error": {"message": 'the input must be {"openai_route": "/v1/…", …}', "status": 400}}
        return
    body = given.get("openai_input")
    method = given.get("openai_method") or ("GET" if body is None else "POST")
    try:
        # A connection of its own, lest the server closes a kept one as it is used. A job that is cancelled closes it
        # here, and the server stops as well.
        async with aiohttp.request(method, URL + route, json=body, headers=HEADERS, timeout=TIMEOUT) as response:
            if not response.ok:
                error = error_of(response.status, (await response.read()).decode(errors="replace"))
                yield {"error": {**error, "retry_after": response.headers.get("Retry-After")}}
            elif response.status == codes.NO_CONTENT:
                yield {}
            elif not (kind := response.headers.get("Content-Type", "text/plain")).startswith(TEXTS):
                message = f"an answer of the type {kind} cannot be relayed"
                yield {"error": {"message": message, "type": "invalid_request_error", "status": 415}}
            else:
                decode = codecs.getincrementaldecoder("utf-8")("replace").decode  # keeps a character that is cut
                async for piece in response.content.iter_any():
                    if text := decode(piece):
                        yield text
    except aiohttp.ClientError as failure:
        message = f"the connection to the model's server broke: {failure or type(failure).__name__}"
        error = {"message": message, "type": "server_error", "status": 502}
        yield {"error": error, "refresh_worker": await asyncio.to_thread(is_gone)}


def error_of(status: int, text: str) -> dict[str, Any]:
    """The server's error in OpenAI's fields, from its body as OpenAI, vLLM, Ollama and others write it."""
    try:
        found = json.loads(text)
    except ValueError:
        found = text
    if isinstance(found, dict):
        found = found.get("error") or found
    if isinstance(found, dict) and found.get("message"):
        return {**found, "status": status}
    return {"message": (found if isinstance(found, str) else text) or f"HTTP status {status}", "status": status}


def is_healthy() -> bool:
    """Whether the server would answer. /health decides where there is one: llama.cpp lists models while it loads."""
    for path in ("/health", "/v1/models"):
        try:
            status = httpx.get(URL + path, headers=HEADERS, timeout=10, trust_env=False).status_code
        except httpx.TransportError:
            return False
        if status != codes.NOT_FOUND:
            return status == codes.OK
    return False


def is_gone() -> bool:
    """Whether nobody listens any more. One that is slow is not gone."""
    try:
        httpx.get(URL, timeout=2, trust_env=False)
    except httpx.ConnectError:
        return True
    except httpx.TransportError:
        return False
    return False


def start_upstream() -> None:
    process = subprocess.Popen(shlex.split(COMMAND))

    def end_with_it() -> None:
        print(f"{COMMAND!r} ended with status {process.wait()}", flush=True)
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


def wait_for_upstream() -> None:
    began = reported = time.monotonic()
    while not is_healthy():
        now = time.monotonic()
        if now - began > START_SECONDS:
            raise TimeoutError(f"nothing healthy at {URL} after {START_SECONDS:g} s")
        if now - reported > SECONDS_BETWEEN_REPORTS:
            print(f"waiting for {URL} since {now - began:.0f} s", flush=True)
            reported = now
        time.sleep(SECONDS_BETWEEN_LOOKS)
    print(f"{URL} is healthy after {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    if COMMAND and not is_healthy():
        start_upstream()
    wait_for_upstream()
    handler_sdk.start({"handler": handler, "concurrency_modifier": lambda _: CONCURRENCY})

"""`--rp_serve_api`: one worker behind HTTP on this machine, with the routes of RunPod's development server.

POST /run and /runsync submit; POST or GET /status/{id} and /stream/{id} wait for the end of the job and show it; POST
/cancel/{id} stops it. Jobs run one after another, or at once in one loop when the handler is async. Nothing is kept
beyond this process, and of the finished jobs only the newest thousand.
"""

import asyncio
import json
import threading
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen

from .local import Collector
from .outcomes import Limits, Outcome
from .runners import HandlerConfig, HandlerKind, Run

KEPT_JOBS = 1000
BODY_LIMIT = 20 * 1024 * 1024
WEBHOOK_SECONDS = 10

Reply = tuple[int, bytes]


class _Job:
    def __init__(self, config: HandlerConfig, fields: dict[str, Any]) -> None:
        self.id: str = fields["id"]
        self.collector = Collector()
        self.run = Run(config, fields, self.collector, Limits(), "local")
        self.outcome: Future[Outcome] = Future()
        self.webhook = fields.get("webhook")
        self.cancelled = False

    def finish(self, outcome: Outcome) -> None:
        self.outcome.set_result(outcome)
        if self.webhook and outcome.state == "COMPLETED":
            threading.Thread(target=_send_webhook, args=(self.webhook, self.shown()), daemon=True).start()

    def shown(self, of_stream: bool = False) -> bytes:
        """The job once it has ended, as /status shows it, or as /stream does."""
        outcome = self.outcome.result()
        if self.cancelled:
            return json.dumps({"id": self.id, "status": "CANCELLED"}).encode()
        if outcome.state != "COMPLETED":
            return _failure(self.id, outcome.value.decode())
        name, pieces = "output", self.collector.chunks
        if of_stream:
            name, pieces = "stream", [b'{"output":' + chunk + b"}" for chunk in pieces]
        value = outcome.value if outcome.field and not of_stream else b"[" + b",".join(pieces) + b"]"
        head = json.dumps({"id": self.id, "status": "COMPLETED"})[:-1]
        return f'{head}, "{name}": '.encode() + value + b"}"


class LocalApi:
    """The jobs behind the routes."""

    def __init__(self, config: HandlerConfig) -> None:
        self._config = config
        self._jobs: dict[str, _Job] = {}
        self._begin = self._begin_in_loop() if config.kind.is_async else self._begin_in_thread()

    def answer(self, method: str, path: str, body: bytes) -> Reply:
        """The status and the JSON body of the answer."""
        route, _, job_id = path.strip("/").partition("/")
        if route in ("run", "runsync") and not job_id:
            return self._submit(route, body) if method == "POST" else (405, b'{"error": "use POST"}')
        if route in ("status", "stream", "cancel") and job_id:
            job = self._jobs.get(job_id)
            return 200, getattr(self, f"_{route}")(job) if job else _failure(job_id, "Job ID not found")
        routes = "POST /run, /runsync, /status/{id}, /stream/{id}, /cancel/{id}"
        return (200 if not route else 404), json.dumps({"routes" if not route else "error": routes}).encode()

    def _submit(self, route: str, body: bytes) -> Reply:
        try:
            request = json.loads(body)
        except ValueError as error:
            return 400, json.dumps({"error": f"the body is not JSON: {error}"}).encode()
        if not isinstance(request, dict) or "input" not in request:
            return 400, b'{"error": "the body must be an object with an \\"input\\""}'
        job = _Job(self._config, {**request, "id": f"test-{uuid.uuid4()}", "attempt": 1})
        self._keep(job)
        self._begin(job)
        if route == "runsync":
            return 200, job.shown()
        return 200, json.dumps({"id": job.id, "status": "IN_PROGRESS"}).encode()

    def _keep(self, job: _Job) -> None:
        self._jobs[job.id] = job
        if len(self._jobs) > KEPT_JOBS:
            oldest = next((known for known, kept in self._jobs.items() if kept.outcome.done()), None)
            if oldest is not None:
                del self._jobs[oldest]

    def _status(self, job: _Job) -> bytes:
        return job.shown()

    def _stream(self, job: _Job) -> bytes:
        if self._config.kind not in (HandlerKind.GENERATOR, HandlerKind.ASYNC_GENERATOR):
            return _failure(job.id, "Stream not supported, handler must be a generator.")
        return job.shown(of_stream=True)

    def _cancel(self, job: _Job) -> bytes:
        if job.outcome.done():
            return job.shown()
        job.cancelled = True
        job.run.stop()
        return json.dumps({"id": job.id, "status": "CANCELLED"}).encode()

    def _begin_in_thread(self) -> Callable[[_Job], object]:
        threads = ThreadPoolExecutor(1)

        def run(job: _Job) -> None:
            job.finish(Outcome("STOPPED") if job.run.stopping else job.run.run())

        return lambda job: threads.submit(run, job)

    def _begin_in_loop(self) -> Callable[[_Job], object]:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()

        async def run(job: _Job) -> None:
            # A task of its own: the run is cancelled by cancelling its task.
            outcome: Awaitable[Outcome] = asyncio.create_task(job.run.run_async())
            job.finish(await outcome)

        return lambda job: asyncio.run_coroutine_threadsafe(run(job), loop)


def _failure(job_id: str, error: str) -> bytes:
    return json.dumps({"id": job_id, "status": "FAILED", "error": error}).encode()


def _send_webhook(url: str, body: bytes) -> None:
    if not url.startswith(("http://", "https://")):
        print(f"WEBHOOK | {url} is no address of a web server", flush=True)
        return
    request = Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
    try:
        with urlopen(request, timeout=WEBHOOK_SECONDS):  # noqa: S310
            pass
    except OSError as error:
        print(f"WEBHOOK | Request to {url} failed: {error}", flush=True)


def make_server(config: HandlerConfig, host: str, port: int) -> ThreadingHTTPServer:
    """A server that is bound and not yet serving. Raises OSError when the port is taken."""
    api = LocalApi(config)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            if size > BODY_LIMIT:
                self.close_connection = True
                self._send(413, json.dumps({"error": f"the body may have {BODY_LIMIT} bytes"}).encode())
            else:
                self._send(*api.answer("POST", self.path, self.rfile.read(size)))

        def do_GET(self) -> None:
            self._send(*api.answer("GET", self.path, b""))

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return ThreadingHTTPServer((host, port), Handler)


def serve_api(config: HandlerConfig, host: str, port: int) -> int:
    """Serves until interrupted; returns the exit status."""
    try:
        server = make_server(config, host, port)
    except OSError as error:
        print(f"ERROR  | cannot serve at {host}:{port}: {error}", flush=True)
        return 1
    print(f"INFO   | Serving at http://{host}:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("INFO   | Stopped.", flush=True)
    finally:
        server.server_close()
    return 0

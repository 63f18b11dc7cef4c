"""Handler files run by hand: one job, or the local server."""

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from handler_sdk.runners import HandlerConfig
from handler_sdk.serve import make_server

from .conftest import ROOT, WorkerProcess

HANDLER = """
import handler_sdk as runpod

def handler(job):
    runpod.serverless.progress_update(job, "half")
    if job["input"] == "bad": raise ValueError("bad input")
    return {"got": job["input"], "id": job["id"]}

runpod.serverless.start({"handler": handler})
"""

STREAM = """
import handler_sdk

async def handler(job):
    yield "a"
    yield job["input"]

handler_sdk.start({"handler": handler})
"""


def run_file(folder: Path, source: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    (folder / "handler.py").write_text(source)
    return subprocess.run(
        [sys.executable, "handler.py", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=20,
    )


class TestOneJob:
    def test_from_the_command_line(self, tmp_path: Path) -> None:
        result = run_file(tmp_path, HANDLER, "--test_input", '{"input": {"x": "é"}}', "--mine", "1")
        assert result.returncode == 0, result.stderr
        assert 'Job result: {"output": {"got":{"x":"é"},"id":"local_test"}}' in result.stdout
        assert 'local_test | Progress: "half"' in result.stdout

    def test_from_the_file_beside_it(self, tmp_path: Path) -> None:
        (tmp_path / "test_input.json").write_text('{"id": "mine", "input": 5}')
        result = run_file(tmp_path, HANDLER)
        assert 'Job result: {"output": {"got":5,"id":"mine"}}' in result.stdout
        assert result.returncode == 0

    def test_shows_each_chunk(self, tmp_path: Path) -> None:
        result = run_file(tmp_path, STREAM, "--test_input", '{"input": 7}')
        assert re.findall(r"Chunk: (.*)", result.stdout) == ['"a"', "7"]
        assert 'Job result: {"output": ["a",7]}' in result.stdout

    def test_that_fails_exits_with_one(self, tmp_path: Path) -> None:
        result = run_file(tmp_path, HANDLER, "--test_input", '{"input": "bad"}')
        assert result.returncode == 1
        assert "Job local_test failed with error:" in result.stdout
        assert "ValueError: bad input" in result.stderr

    @pytest.mark.parametrize(
        ("text", "message"),
        [("{", "--test_input is not JSON"), ("{}", "Job has no input parameter"), ("[]", "Job has no input parameter")],
    )
    def test_that_is_none_exits_with_one(self, text: str, message: str, tmp_path: Path) -> None:
        result = run_file(tmp_path, HANDLER, "--test_input", text)
        assert result.returncode == 1
        assert message in result.stdout

    def test_missing_says_what_to_do(self, tmp_path: Path) -> None:
        result = run_file(tmp_path, HANDLER)
        assert result.returncode == 1
        assert "python handler.py --test_input" in result.stderr


@contextmanager
def serving(handler: Any) -> Iterator[HTTPConnection]:
    server = make_server(HandlerConfig.of({"handler": handler}), "localhost", 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        with closing(HTTPConnection("localhost", server.server_address[1], timeout=10)) as connection:
            yield connection
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def request(connection: HTTPConnection, path: str, body: Any = None, method: str = "POST") -> Any:
    connection.request(method, path, json.dumps(body) if body is not None else None)
    return json.loads(connection.getresponse().read())


def double(job: dict[str, Any]) -> Any:
    return job["input"] * 2


def count(job: dict[str, Any]) -> Iterator[int]:
    yield from range(job["input"])


class TestServer:
    def test_runs_jobs_while_the_client_waits(self) -> None:
        with serving(double) as connection:
            reply = request(connection, "/runsync", {"input": 4})
            assert (reply["status"], reply["output"]) == ("COMPLETED", 8)
            assert reply["id"].startswith("test-")

    def test_runs_jobs_that_the_client_asks_for_later(self) -> None:
        with serving(double) as connection:
            reply = request(connection, "/run", {"input": "ab"})
            assert reply == {"id": reply["id"], "status": "IN_PROGRESS"}
            expected = {"id": reply["id"], "status": "COMPLETED", "output": "abab"}
            assert request(connection, f"/status/{reply['id']}") == expected
            assert request(connection, f"/status/{reply['id']}", method="GET") == expected
            assert "must be a generator" in request(connection, f"/stream/{reply['id']}")["error"]

    def test_shows_streams(self) -> None:
        with serving(count) as connection:
            job = request(connection, "/run", {"input": 2})["id"]
            assert request(connection, f"/stream/{job}")["stream"] == [{"output": 0}, {"output": 1}]
            assert request(connection, f"/status/{job}")["output"] == [0, 1]

    def test_shows_failures(self, capsys: pytest.CaptureFixture[str]) -> None:
        with serving(double) as connection:
            reply = request(connection, "/runsync", {"input": {}})
            assert reply["status"] == "FAILED"
            assert json.loads(reply["error"])["error_type"] == "<class 'TypeError'>"
            assert request(connection, "/status/x") == {"id": "x", "status": "FAILED", "error": "Job ID not found"}
            assert "input" in request(connection, "/run", {})["error"]
            assert "error" in request(connection, "/nowhere", {})
        capsys.readouterr()

    def test_cancels_async_jobs(self) -> None:
        import asyncio

        started, cancelled = threading.Event(), threading.Event()

        async def handler(job: Any) -> None:
            started.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        with serving(handler) as connection:
            job = request(connection, "/run", {"input": 1})["id"]
            assert started.wait(10)
            assert request(connection, f"/cancel/{job}")["status"] == "CANCELLED"
            assert cancelled.wait(10)
            assert request(connection, f"/status/{job}")["status"] == "CANCELLED"

    def test_sends_webhooks(self) -> None:
        bodies: list[bytes] = []
        arrived = threading.Event()

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()
                arrived.set()

            def log_message(self, *arguments: Any) -> None:
                pass

        receiver = HTTPServer(("localhost", 0), Receiver)
        thread = threading.Thread(target=receiver.handle_request)
        thread.start()
        with serving(double) as connection:
            webhook = f"http://localhost:{receiver.server_address[1]}"
            reply = request(connection, "/runsync", {"input": 3, "webhook": webhook})
            assert arrived.wait(10)
        thread.join(10)
        receiver.server_close()
        assert json.loads(bodies[0]) == reply

    def test_starts_from_the_command_line(self, tmp_path: Path) -> None:
        (tmp_path / "handler.py").write_text(HANDLER)
        command = [sys.executable, "handler.py", "--rp_serve_api", "--rp_api_port", "0", "--rp_api_concurrency", "2"]
        server = WorkerProcess(command, {}, tmp_path)
        try:
            server.wait_for("Serving at")
            port = int(server.log.rpartition(":")[2])
            with closing(HTTPConnection("localhost", port, timeout=10)) as connection:
                assert request(connection, "/runsync", {"input": 1})["output"]["got"] == 1
        finally:
            assert server.end(signal.SIGINT) == 0

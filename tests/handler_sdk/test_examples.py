"""The examples, in this process and by hand."""

import asyncio
import hashlib
import json
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from handler_sdk.examples import compress_async, keywords, openai_proxy, primes

from .conftest import ROOT

TEXT = """# Cats

The cat sleeps. A cat and another cat sleep on the warm roof of the house, as cats do all day long.

# Ships

The ship sails. A ship and another ship sail over the cold sea to the harbour, as ships do all year long.
"""


def test_keywords_tells_what_each_section_is_about() -> None:
    *sections, summary = keywords.handler({"input": {"text": TEXT, "top": 2}})
    assert [section["title"] for section in sections] == ["Cats", "Ships"]
    assert sections[0]["keywords"][0]["word"] == "cat"
    assert {keyword["word"] for keyword in sections[1]["keywords"]} == {"ship", "the"} or (
        sections[1]["keywords"][0]["word"] == "ship"
    )
    assert len(sections[0]["keywords"]) == 2
    assert summary["sections"] == 2
    assert summary["words"] == sum(section["words"] for section in sections)


@pytest.mark.parametrize(
    "given", [None, {}, {"text": " "}, {"text": 5}, {"text": "x", "top": 0}, {"text": "x", "top": True}]
)
def test_keywords_refuses_other_input(given: Any) -> None:
    (chunk,) = keywords.handler({"input": given})
    assert list(chunk) == ["error"]


@pytest.mark.parametrize(("limit", "count", "largest"), [(2, 1, 2), (100, 25, 97), (3_000_000, 216_816, 2_999_999)])
def test_primes_counts(limit: int, count: int, largest: int) -> None:
    assert primes.handler({"id": "x", "input": {"limit": limit}}) == {
        "limit": limit,
        "primes": count,
        "largest": largest,
    }


def test_primes_refuses_other_input() -> None:
    assert "error" in primes.handler({"input": {"limit": 1}})


def test_compress_measures_the_text() -> None:
    text = "to be or not to be " * 50
    output = asyncio.run(compress_async.handler({"input": {"text": text}}))
    assert output["compressed"]["zlib"] == len(zlib.compress(text.encode(), 9))
    assert output["best"] == min(output["compressed"], key=output["compressed"].get)
    assert output["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert output["bytes"] == len(text)
    assert "error" in asyncio.run(compress_async.handler({"input": 5}))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("keywords", '{"input": {"text": "One thing.\\n\\nAnother.", "top": 3}}'),
        ("primes", '{"input": {"limit": 1000}}'),
        ("compress_async", '{"input": {"text": "to be or not to be"}}'),
    ],
)
def test_each_runs_as_its_file_says(name: str, given: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / f"handler_sdk/examples/{name}.py"), "--test_input", given]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "completed successfully" in result.stdout


@contextmanager
def serving(answers: dict[str, list[int]]) -> Iterator[str]:
    """A server that answers a path with these statuses, one after the other, and the last one from then on. Its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            statuses = answers.get(self.path, [404])
            body = json.dumps({"path": self.path}).encode()
            self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run_proxy(folder: Path, given: Any, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "handler_sdk/examples/openai_proxy.py"), "--test_input"]
    variables = {"PYTHONPATH": str(ROOT), "PATH": "", **environment}
    return subprocess.run(
        [*command, json.dumps({"input": given})], cwd=folder, env=variables, capture_output=True, text=True, timeout=30
    )


@pytest.mark.parametrize(
    "answers", [{"/health": [503, 200]}, {"/health": [404], "/v1/models": [503, 200]}], ids=["health", "models"]
)
def test_openai_proxy_waits_until_its_server_is_healthy(answers: dict[str, list[int]], tmp_path: Path) -> None:
    with serving(answers | {"/v1/x?a=1": [200]}) as url:
        result = run_proxy(tmp_path, {"openai_route": "/v1/x?a=1"}, UPSTREAM_URL=url)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{url} is healthy" in result.stdout
    assert "/v1/x?a=1" in result.stdout


def test_openai_proxy_gives_up_when_its_server_does_not_become_healthy(tmp_path: Path) -> None:
    with serving({"/health": [503], "/v1/models": [200]}) as url:  # as llama.cpp while it loads
        result = run_proxy(tmp_path, {}, UPSTREAM_URL=url, UPSTREAM_START_SECONDS="0.1")
    assert result.returncode == 1
    assert f"nothing healthy at {url}" in result.stderr


def test_openai_proxy_ends_with_its_server(tmp_path: Path) -> None:
    command = f"{sys.executable} -c 'raise SystemExit(7)'"
    result = run_proxy(tmp_path, {}, UPSTREAM_URL="http://127.0.0.1:9", UPSTREAM_COMMAND=command)
    assert result.returncode == 1
    assert "ended with status 7" in result.stdout


@pytest.mark.parametrize("given", [None, {}, {"openai_route": 1}, {"openai_route": "@example.com/v1/x"}])
async def test_openai_proxy_refuses_other_input(given: Any) -> None:
    (chunk,) = [chunk async for chunk in openai_proxy.handler({"input": given})]
    assert isinstance(chunk, dict)
    assert chunk["error"]["status"] == 400


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"error": {"message": "m", "type": "t", "code": 1}}', {"message": "m", "type": "t", "code": 1}),
        ('{"object": "error", "message": "m", "type": "BadRequestError"}',
         {"object": "error", "message": "m", "type": "BadRequestError"}),
        ('{"error": "model not found"}', {"message": "model not found"}),
        ('{"detail": "Not Found"}', {"message": '{"detail": "Not Found"}'}),
        ("Bad Gateway", {"message": "Bad Gateway"}),
        ("", {"message": "HTTP status 418"}),
    ],
)  # fmt: skip
def test_openai_proxy_knows_the_errors_of_servers(text: str, expected: dict[str, Any]) -> None:
    assert openai_proxy.error_of(418, text) == expected | {"status": 418}

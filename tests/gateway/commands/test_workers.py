"""`runlane worker`: of a gateway by Runqy's documents, and the one that runs here."""

import json
from pathlib import Path

import pytest

from ..processes import run
from .documented import Documented
from .invoking import Command, check_misused

WORKER = {
    "worker_id": "a:w1", "started_at": 1769860800, "last_beat": 1769860803, "concurrency": 2,
    "queues": "map[a.default:1 a.high:2]", "status": "running", "is_stale": False,
}  # fmt: skip


def test_list(at_documented: Command, documented: Documented) -> None:
    documented.answer({"workers": [WORKER], "count": 1, "next": "b:1"})
    result = at_documented("worker", "list", "-l", "1", "--cursor", "a:0")
    assert result.stderr == "runlane: there is more: --cursor b:1\n"
    header, line = result.stdout.splitlines()
    assert header.split() == ["WORKER_ID", "STATUS", "QUEUES", "CONCURRENCY", "LAST_BEAT", "STALE"]
    assert line.split() == ["a:w1", "running", "map[a.default:1", "a.high:2]", "2", "2026-01-31T12:00:03Z", "no"]
    assert documented.requests[0][:3] == ("GET", "/api/cli/workers", {"limit": "1", "cursor": "a:0"})


def test_info(at_documented: Command, documented: Documented) -> None:
    documented.answer(WORKER)
    shown = at_documented("worker", "info", "a:w1").stdout
    assert "started_at: 2026-01-31T12:00:00Z\nlast_beat: 2026-01-31T12:00:03Z\nconcurrency: 2\n" in shown
    assert documented.requests[0].path == "/api/cli/workers/a:w1"
    check_misused(at_documented("worker", "info", ""), "worker id cannot be empty")


def test_logs(at_documented: Command, documented: Documented) -> None:
    logs = {"lines": ["one\ttab", "\x1b[32mgreen\x1b[0m \x1b]0;title\x07"], "count": 2}
    documented.answer(logs)
    assert at_documented("worker", "logs", "a:w1").stdout == "one\ttab\ngreen \\x1b]0;title\\x07\n"
    assert documented.requests[0][:3] == ("GET", "/api/cli/workers/a:w1/logs", {"n": "200"})
    documented.answer(logs)
    assert json.loads(at_documented("worker", "logs", "a:w1", "-n", "2", "--json").stdout) == logs
    assert documented.requests[1].query == {"n": "2"}
    check_misused(at_documented("worker", "logs", "a:w1", "-n", "0"), "--lines must be positive")


def test_logs_that_go_on(at_documented: Command, documented: Documented) -> None:
    documented.send_events("one", "two \x1b[1mbold\x1b[0m")
    assert at_documented("worker", "logs", "a:w1", "-n", "1", "--follow").stdout == "one\ntwo bold\n"
    assert documented.requests[0][:3] == ("GET", "/api/cli/workers/a:w1/logs/stream", {"n": "1"})
    documented.send_events("one", "two")
    assert at_documented("worker", "logs", "a:w1", "--follow", "--json").stdout == '"one"\n"two"\n'


@pytest.mark.parametrize("body", ["text", {"lines": []}])
def test_logs_of_what_is_no_gateway(at_documented: Command, documented: Documented, body: object) -> None:
    documented.answer(body)
    result = at_documented("worker", "logs", "a:w1", "--follow")
    assert (result.exit_code, "does not answer as a gateway does" in result.stderr) == (1, True)


HANDLER = """import sys
print(sys.argv[1:])
sys.exit(3)
"""


@pytest.mark.parametrize("file", ["handler.py", "./list", "./info", "sub/logs"])
def test_a_file_is_run(tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(HANDLER)
    result = run("worker", file, "--a", "b", "-s", "c", cwd=tmp_path)
    assert "RUNLANE_URL is not set" in result.stderr
    assert result.returncode == 2


def test_a_file_called_as_a_command_is_not(tmp_path: Path) -> None:
    (tmp_path / "list").write_text(HANDLER)
    result = run("worker", "list", cwd=tmp_path)
    assert (result.returncode, "cannot reach the gateway" in result.stderr) == (1, True)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = run("worker", "lst", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, "runlane: there is no handler file lst\n")


@pytest.mark.parametrize("arguments", ["-k a worker x.py", "worker -s http://x x.py"])
def test_a_worker_that_runs_takes_no_server(runlane: Command, arguments: str) -> None:
    check_misused(runlane(*arguments.split()), "a worker goes by RUNLANE_URL, RUNLANE_ENDPOINT and RUNLANE_WORKER_KEY")


def test_help(runlane: Command) -> None:
    assert "Usage: main worker [OPTIONS] HANDLER" in runlane("worker", "--help").stdout
    assert runlane("worker", "x.py", "--help").stdout.startswith("Usage: main worker  [OPTIONS] HANDLER")

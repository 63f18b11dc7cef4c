"""One job run in this process, for authors: `--test_input`, or a test_input.json."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from .encoding import to_json
from .outcomes import Limits, Outcome
from .progress import report_to
from .runners import HandlerConfig, Run

FILE = "test_input.json"


class Collector:
    """Keeps the chunks of a run, and shows each one as it comes."""

    def __init__(self, show: Callable[[bytes], None] = lambda _: None) -> None:
        self.chunks: list[bytes] = []
        self._show = show

    def send(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        self._show(chunk)

    async def send_async(self, chunk: bytes) -> None:
        self.send(chunk)


def run_local(config: HandlerConfig, test_input: str | None) -> int:
    """Runs the job in `test_input` (JSON), or the one in test_input.json, and prints what comes of it.

    Returns 0 when it completed, else 1.
    """
    try:
        job = _load(test_input)
    except ValueError as error:
        return _end(f"ERROR  | {error}")
    report_to(_show_progress)
    collector = Collector(lambda chunk: _say(f"INFO   | {job['id']} | Chunk: {chunk.decode()}"))
    _say(f"INFO   | {job['id']} | Started.")
    run = Run(config, job, collector, Limits(), "local")
    outcome = asyncio.run(run.run_async()) if config.kind.is_async else run.run()
    if outcome.state != "COMPLETED":
        return _end(f"ERROR  | Job {job['id']} failed with error: {outcome.value.decode()}")
    _say(f"INFO   | Job {job['id']} completed successfully.")
    _say(f"INFO   | Job result: {result_of(outcome, collector.chunks).decode()}")
    _say("INFO   | Local testing complete, exiting.")
    return 0


def result_of(outcome: Outcome, chunks: list[bytes]) -> bytes:
    """What RunPod's SDK shows of a job that completed, as JSON; a stream's output is the list of its chunks."""
    output = outcome.value if outcome.field else b"[" + b",".join(chunks) + b"]"
    return b'{"output": ' + output + b"}"


def _load(test_input: str | None) -> dict[str, Any]:
    if test_input is not None:
        _say("INFO   | test_input set, using test_input as job input.")
        name, text = "--test_input", test_input
    else:
        _say(f"INFO   | Using {FILE} as job input.")
        with open(FILE, encoding="utf-8") as file:
            name, text = FILE, file.read()
    try:
        job = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} is not JSON: {error}") from None
    if not isinstance(job, dict) or job.get("input") is None:
        raise ValueError("Job has no input parameter. Unable to run.")
    return {"attempt": 1, **job, "id": job.get("id", "local_test")}


def _show_progress(job: Mapping[str, Any], progress: Any) -> None:
    _say(f"INFO   | {job['id']} | Progress: {to_json(progress).decode()}")


def _end(text: str) -> int:
    _say(text)
    return 1


def _say(text: str) -> None:
    print(text, flush=True)

"""Handler files of our own SDK, run by an agent."""

import time
from pathlib import Path

import pytest

from ..conftest import eventually
from .conftest import HANDLER, StartAgent
from .server import Front, Queue


class TestJobs:
    def test_reach_the_handler_and_their_output_comes_back(
        self, start_agent: StartAgent, jobs: Queue, front: Front
    ) -> None:
        start_agent("import handler_sdk\nhandler_sdk.start({'handler': lambda job: job})")
        job = jobs.submit({"big": 123456789012345678901234567890, "text": "é\n"}, webhook="http://example.com")
        assert jobs.wait(job)["output"] == {
            "id": job,
            "input": {"big": 123456789012345678901234567890, "text": "é\n"},
            "webhook": "http://example.com",
            "attempt": 1,
        }
        registration = front.registrations[0]
        assert registration["queue"] == jobs.name
        assert set(registration) == {"queue", "hostname", "os", "version", "worker_id"}
        assert jobs.workers()[0]["id"] == registration["worker_id"]

    @pytest.mark.parametrize("field", ["input", "other"])
    def test_that_python_cannot_read_fail(self, start_agent: StartAgent, jobs: Queue, field: str) -> None:
        start_agent(HANDLER)
        bad = jobs.submit_raw(f'{{"input": 1, "{field}": {"9" * 5000}}}')
        assert jobs.wait(bad)["error"].startswith("the job's input cannot be read in Python: ")
        assert jobs.run({"return": 5}) == 5

    def test_that_print_do_not_disturb(self, start_agent: StartAgent, jobs: Queue) -> None:
        agent = start_agent(HANDLER)
        assert jobs.run({"print": '{"task_id": "x"}', "return": 5}) == 5
        agent.wait_for('{"task_id": "x"}')

    def test_that_print_are_in_the_log_of_the_worker(self, start_agent: StartAgent, jobs: Queue) -> None:
        start_agent(HANDLER)
        jobs.run({"print": "a line of the task"})
        eventually(lambda: any("a line of the task" in line for line in jobs.log()))
        assert jobs.workers()[0]["metrics"]["memory_total_bytes"] > 0

    def test_stream_what_the_handler_yields_at_once(self, start_agent: StartAgent, jobs: Queue, tmp_path: Path) -> None:
        start_agent(f"""
import os, time
import handler_sdk
def handler(job):
    for number in range(3):
        handler_sdk.progress_update(job, {{"step": number}})
        yield number
        while not os.path.exists({str(tmp_path)!r} + f"/{{number}}"): time.sleep(0.005)
handler_sdk.start({{"handler": handler, "return_aggregate_stream": True}})
""")
        job = jobs.submit()
        for number in range(3):
            assert eventually(lambda: jobs.stream(job)) == [number]
            jobs.wait(job, lambda found: found.get("output") == {"step": number})  # noqa: B023
            (tmp_path / str(number)).touch()
        assert jobs.wait(job)["output"] == [0, 1, 2]

    def test_of_async_generators_stream_without_an_output(self, start_agent: StartAgent, jobs: Queue) -> None:
        start_agent("""
import handler_sdk
async def handler(job):
    for number in range(job["input"]):
        yield {"n": number, "text": "x" * 1000}
handler_sdk.start({"handler": handler})
""")
        job = jobs.submit(2000)
        found = jobs.wait(job)
        assert (found["status"], found.get("output")) == ("COMPLETED", None)
        assert [chunk["n"] for chunk in jobs.stream(job)] == list(range(2000))

    def test_run_at_once_as_many_as_the_agent_is_told(
        self, start_agent: StartAgent, jobs: Queue, tmp_path: Path
    ) -> None:
        start_agent(HANDLER, "--concurrency", "3")
        marks = [tmp_path / str(number) for number in range(3)]
        running = [jobs.submit({"touch": str(mark), "wait_for": str(tmp_path / "go")}) for mark in marks]
        eventually(lambda: all(mark.exists() for mark in marks))
        (tmp_path / "go").touch()
        assert [jobs.wait(job)["status"] for job in running] == ["COMPLETED"] * 3

    def test_run_at_once_as_many_as_the_handler_wishes(
        self, start_agent: StartAgent, jobs: Queue, tmp_path: Path
    ) -> None:
        start_agent(HANDLER.replace('"handler": handler', '"handler": handler, "concurrency_modifier": lambda _: 2'))
        marks = [tmp_path / str(number) for number in range(2)]
        running = [jobs.submit({"touch": str(mark), "wait_for": str(tmp_path / "go")}) for mark in marks]
        eventually(lambda: all(mark.exists() for mark in marks))
        (tmp_path / "go").touch()
        assert [jobs.wait(job)["status"] for job in running] == ["COMPLETED"] * 2

    @pytest.mark.parametrize("carrier", ["redis", "http"])
    def test_are_tried_again_when_the_handler_says_so(self, carrier: str, start_agent: StartAgent, jobs: Queue) -> None:
        start_agent(HANDLER, environment={"RUNLANE_LINK": carrier})
        assert jobs.run({"retry": 1})["attempt"] == 2
        assert "not yet" in jobs.error({"retry": 99})

    def test_that_fail_bring_the_exception(self, start_agent: StartAgent, jobs: Queue) -> None:
        start_agent("import handler_sdk\ndef handler(job): return 1 / 0\nhandler_sdk.start({'handler': handler})")
        assert "ZeroDivisionError" in jobs.error()

    def test_with_too_large_an_output_fail(self, start_agent: StartAgent, jobs: Queue) -> None:
        start_agent("import handler_sdk\nhandler_sdk.start({'handler': lambda job: 'x' * job['input']})")
        assert jobs.error(21 * 1024 * 1024).startswith("the handler's output has ")
        assert jobs.run(3_000_000) == "x" * 3_000_000

    def test_refresh_the_process_when_the_handler_wishes(self, start_agent: StartAgent, jobs: Queue) -> None:
        start_agent(HANDLER.replace('"handler": handler', '"handler": handler, "refresh_worker": True'))
        assert jobs.run()["pid"] != jobs.run()["pid"]


class TestCancel:
    def test_stops_a_coroutine_and_leaves_the_process(
        self, start_agent: StartAgent, jobs: Queue, tmp_path: Path
    ) -> None:
        start_agent(f"""
import asyncio, os
import handler_sdk
async def handler(job):
    if not job["input"]: return os.getpid()
    open({str(tmp_path / "begun")!r}, "w").close()
    try: await asyncio.sleep(60)
    finally: open({str(tmp_path / "stopped")!r}, "w").close()
handler_sdk.start({{"handler": handler}})
""")
        before = jobs.run()
        job = jobs.submit(1)
        eventually((tmp_path / "begun").exists)
        jobs.cancel(job)
        eventually((tmp_path / "stopped").exists)
        assert jobs.run() == before

    def test_replaces_the_process_of_a_plain_function(
        self, start_agent: StartAgent, jobs: Queue, tmp_path: Path
    ) -> None:
        start_agent(HANDLER)
        before = jobs.run()["pid"]
        job = jobs.submit({"touch": str(tmp_path / "begun"), "wait_for": "/nowhere"})
        eventually((tmp_path / "begun").exists)
        jobs.cancel(job)
        assert jobs.run()["pid"] != before


def test_end_of_input_lets_the_task_end_by_itself(start_agent: StartAgent, jobs: Queue, tmp_path: Path) -> None:
    agent = start_agent(f"""
import atexit, time
import handler_sdk
atexit.register(lambda: open({str(tmp_path / "left")!r}, "w").close())
handler_sdk.start({{"handler": lambda job: job["input"]}})
""")
    assert jobs.run(1) == 1
    began = time.monotonic()
    assert agent.end() == 0
    assert (tmp_path / "left").exists()
    assert time.monotonic() - began < 10

"""Workers as processes, a real store, and a stand-in for the gateway."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from .conftest import BASE, Gateway, Jobs, StartWorker, Store, WorkerProcess, eventually

ECHO = """
import handler_sdk
handler_sdk.start({"handler": lambda job: job})
"""

# Obeys the job: one handler for many tests.
OBEDIENT = """
import ctypes, os, signal, time
import handler_sdk

def handler(job):
    given = job["input"] or {}
    for name, value in given.items():
        if name == "touch": open(value, "w").close()
        elif name == "sleep": time.sleep(value)
        elif name == "wait_for":
            while not os.path.exists(value): time.sleep(0.01)
        elif name == "hold_interpreter": ctypes.PyDLL(None).usleep(int(value * 1e6))
        elif name == "exit": os._exit(value)
        elif name == "signal": os.kill(os.getpid(), value)
        elif name == "progress":
            for number in range(value): handler_sdk.progress_update(job, {"step": number})
        elif name == "big": return "x" * value
        elif name == "environment": return dict(os.environ)
        elif name == "return": return value
    return {"pid": os.getpid(), "attempt": job["attempt"]}

handler_sdk.start({"handler": handler})
"""


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestJobs:
    def test_carry_id_input_attempt_and_the_fields_of_the_request(self, start_worker: StartWorker, jobs: Jobs) -> None:
        start_worker(ECHO)
        request = '{"webhook": "http://example.com", "policy": {"ttl": 1}, "id": "mine"}'
        job = jobs.submit(raw='{"big": 123456789012345678901234567890, "text": "é"}', request=request)
        assert json.loads(jobs.wait(job)["output"]) == {
            "webhook": "http://example.com",
            "policy": {"ttl": 1},
            "id": job,
            "input": {"big": 123456789012345678901234567890, "text": "é"},
            "attempt": 1,
        }

    @pytest.mark.parametrize("raw", ["[" * 100_000 + "]" * 100_000, "9" * 5000])
    def test_that_python_cannot_read_fail(self, raw: str, start_worker: StartWorker, jobs: Jobs) -> None:
        start_worker(ECHO)
        job = jobs.submit(raw=raw)
        assert jobs.wait(job)["error"].startswith("the job's input cannot be read in Python: ")
        jobs.run()

    def test_run_one_at_a_time_in_the_main_thread(self, start_worker: StartWorker, jobs: Jobs) -> None:
        start_worker("""
import threading
import handler_sdk
running = []
def handler(job):
    running.append(job)
    seen = len(running), threading.current_thread() is threading.main_thread()
    running.pop()
    return seen
handler_sdk.start({"handler": handler})
""")
        many = [jobs.submit() for _ in range(20)]
        assert {jobs.wait(job)["output"] for job in many} == {"[1,true]"}

    def test_are_freed_when_they_are_over(self, start_worker: StartWorker, jobs: Jobs) -> None:
        """Also while the garbage collector does not come by."""
        start_worker("""
import gc
import handler_sdk
gc.disable()
async def handler(job):
    handler_sdk.progress_update(job, "half")
    return sum(type(each).__name__ in ("Job", "Run", "Delivery") for each in gc.get_objects())
handler_sdk.start({"handler": handler})
""")
        first, *others = [jobs.run() for _ in range(6)]
        assert first == 3
        assert max(others) <= 6, "this one, and the one before, which may not be delivered yet"

    def test_have_a_process_whose_own_modules_the_garbage_collector_leaves_alone(
        self, start_worker: StartWorker, jobs: Jobs
    ) -> None:
        start_worker("""
import gc, sys
import handler_sdk
class OfTheAuthor: pass
def handler(job):
    looked_at = {id(each) for each in gc.get_objects()}
    return [id(vars(sys.modules["redis.asyncio"])) in looked_at, id(OfTheAuthor) in looked_at]
handler_sdk.start({"handler": handler})
""")
        assert jobs.run() == [False, True]

    @pytest.mark.parametrize("head", ["def", "async def"])
    def test_that_stream_deliver_all_chunks_in_order(self, head: str, start_worker: StartWorker, jobs: Jobs) -> None:
        start_worker(f"""
import handler_sdk
{head} handler(job):
    for number in range(job["input"]):
        yield {{"number": number}}
handler_sdk.start({{"handler": handler, "return_aggregate_stream": True}})
""")
        job = jobs.submit(3000)
        fields = jobs.wait(job)
        expected = [{"number": number} for number in range(3000)]
        assert jobs.chunks(job) == expected
        assert json.loads(fields["output"]) == expected

    def test_that_stream_show_each_chunk_at_once(self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path) -> None:
        start_worker(f"""
import os, time
import handler_sdk
def handler(job):
    for number in range(3):
        yield number
        while not os.path.exists({str(tmp_path)!r} + f"/{{number}}"): time.sleep(0.005)
handler_sdk.start({{"handler": handler}})
""")
        job = jobs.submit()
        for number in range(3):
            eventually(lambda: jobs.chunks(job) == list(range(number + 1)))  # noqa: B023
            (tmp_path / str(number)).touch()
        assert "output" not in jobs.wait(job)

    @pytest.mark.parametrize(
        ("head", "hold"),
        [
            ("def", "ctypes.PyDLL(None).usleep(30_000_000)"),
            ("async def", "ctypes.PyDLL(None).usleep(30_000_000)"),
            ("async def", "time.sleep(30)"),
        ],
    )
    @pytest.mark.parametrize("chunks", [1, 3])
    def test_that_stream_show_a_chunk_before_the_handler_holds_the_interpreter_or_its_loop(
        self, head: str, hold: str, chunks: int, start_worker: StartWorker, jobs: Jobs
    ) -> None:
        """Also the last of several, each of which comes while the reply to the one before waits to be read."""
        start_worker(f"""
import ctypes, time
import handler_sdk
{head} handler(job):
    for number in range(job["input"]):
        time.sleep(0.05)
        yield number
    {hold}
handler_sdk.start({{"handler": handler}})
""")
        job = jobs.submit(chunks)
        eventually(lambda: jobs.chunks(job) == list(range(chunks)), 5)
        assert jobs.state(job) == "IN_PROGRESS"

    def test_report_progress_while_the_handler_blocks_its_loop(self, start_worker: StartWorker, jobs: Jobs) -> None:
        start_worker("""
import time
import handler_sdk
async def handler(job):
    for step in range(4):
        handler_sdk.progress_update(job, step)
        time.sleep(0.05)
    time.sleep(30)
handler_sdk.start({"handler": handler})
""")
        job = jobs.submit()
        eventually(lambda: jobs.fields(job).get("progress") == "3", 5)

    @pytest.mark.parametrize(
        "say",
        [
            "return 1",
            "return 'x' * 100_000",
            "return 'x' * 3_000_000",
            "handler_sdk.progress_update(job, 1); return 1",
            "yield 1",
            "for number in range(4): yield number",
        ],
    )
    def test_have_their_result_in_the_store_before_the_next_one_blocks_the_loop(
        self, say: str, start_worker: StartWorker, jobs: Jobs, tmp_path: Path
    ) -> None:
        start_worker(f"""
import os, time
import handler_sdk
async def handler(job):
    while not os.path.exists(f"go-{{job['input']}}"): time.sleep(0.01)
    {say}
handler_sdk.start({{"handler": handler}})
""")
        many = [jobs.submit(number) for number in range(4)]
        for number in range(3):
            (tmp_path / f"go-{number}").touch()
            assert jobs.wait(many[number], seconds=5)["state"] == "COMPLETED"
        jobs.wait(many[3], "IN_PROGRESS")

    @pytest.mark.parametrize("head", ["def", "async def"])
    def test_may_fork_and_what_the_fork_reports_does_nothing(
        self, head: str, start_worker: StartWorker, jobs: Jobs
    ) -> None:
        worker = start_worker(f"""
import os
import handler_sdk
{head} handler(job):
    child = os.fork()
    if not child:
        try: handler_sdk.progress_update(job, "from the fork")
        finally: os._exit(0)
    return os.waitpid(child, 0)[1], job["input"]
handler_sdk.start({{"handler": handler}})
""")
        assert [jobs.run(number) for number in range(3)] == [[0, number] for number in range(3)]
        assert "fault" not in worker.log

    def test_that_raise_fail_and_the_worker_goes_on(self, start_worker: StartWorker, jobs: Jobs) -> None:
        start_worker("""
import handler_sdk
def handler(job):
    if job["input"] == "bad":
        raise ValueError("bad input")
    return "fine"
handler_sdk.start({"handler": handler})
""")
        error = json.loads(jobs.error("bad"))
        assert (error["error_message"], error["worker_id"]) == ("bad input", "worker-1")
        assert jobs.run("good") == "fine"

    def test_that_may_be_tried_again_are(self, start_worker: StartWorker, jobs: Jobs) -> None:
        start_worker("""
import handler_sdk
def handler(job):
    if job["attempt"] <= job["input"]:
        raise handler_sdk.RetryableError(f"attempt {job['attempt']} was too early")
    return job["attempt"]
handler_sdk.start({"handler": handler})
""")
        assert jobs.run(1) == 2
        assert "attempt 3 was too early" in jobs.error(9)

    def test_with_an_error_in_the_output_fail(self, start_worker: StartWorker, jobs: Jobs) -> None:
        start_worker(OBEDIENT)
        assert jobs.error({"return": {"error": "no"}}) == "no"

    def test_with_too_large_an_output_fail_with_both_sizes(
        self, start_worker: StartWorker, jobs: Jobs, gateway: Gateway
    ) -> None:
        gateway.output_limit = 5_000_000
        start_worker(OBEDIENT)
        assert jobs.error({"big": 5_000_000}) == "the handler's output has 5000002 bytes; the limit is 5000000 bytes"
        assert len(jobs.run({"big": 4_999_998})) == 4_999_998

    def test_with_large_string_chunks_deliver_them_in_pieces(
        self, start_worker: StartWorker, jobs: Jobs, gateway: Gateway
    ) -> None:
        gateway.chunk_limit = 1000
        start_worker("""
import handler_sdk
def handler(job):
    yield "é" * 1700
    if job["input"]:
        yield list(range(1000))
handler_sdk.start({"handler": handler})
""")
        job = jobs.submit(False)
        jobs.wait(job)
        pieces = jobs.chunks(job)
        assert "".join(pieces) == "é" * 1700
        assert len(pieces) == 4
        assert "the limit is 1000 bytes" in jobs.error(True)

    def test_report_progress_and_the_latest_wins(
        self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path, store: Store
    ) -> None:
        start_worker(OBEDIENT)
        job = jobs.submit({"progress": 5000, "wait_for": str(tmp_path / "go")})
        eventually(lambda: jobs.fields(job).get("progress") == '{"step":4999}')
        (tmp_path / "go").touch()
        assert "progress" not in jobs.wait(job)

    def test_get_an_environment_without_credentials(self, start_worker: StartWorker, jobs: Jobs) -> None:
        start_worker(OBEDIENT, RUNLANE_WORKER_KEY="secret-key", RUNLANE_STORE_URL="redis://x:secret-key@h")
        environment = jobs.run({"environment": True})
        assert "secret-key" not in json.dumps(environment)
        assert environment["RUNLANE_ENDPOINT"] == "sdk"
        assert "RUNLANE_HANDLER_SOCKET" not in environment


class TestStop:
    def stop(self, worker: WorkerProcess, jobs: Jobs, job: str, path: Path) -> None:
        eventually(path.exists)
        jobs.cancel(job)

    @pytest.mark.parametrize(
        ("body", "seen"),
        [
            ("async def handler(job):\n  try: step(); await asyncio.sleep(60)", "CancelledError"),
            ("async def handler(job):\n  try:\n    yield 1; step(); await asyncio.sleep(60)", "CancelledError"),
            ("def handler(job):\n  try:\n    while True: yield 1; step(); time.sleep(0.05)", "GeneratorExit"),
        ],
    )
    def test_reaches_handlers_that_can_react(
        self, body: str, seen: str, start_worker: StartWorker, jobs: Jobs, tmp_path: Path
    ) -> None:
        worker = start_worker(
            "import asyncio, time\nimport handler_sdk\nnumber = 0\n"
            "def step(): open('started', 'w').close()\n"
            f"{body}\n  except BaseException as error: open('seen', 'w').write(type(error).__name__); raise\n"
            "handler_sdk.start({'handler': handler})\n"
        )
        process = worker.handler_process()
        job = jobs.submit()
        self.stop(worker, jobs, job, tmp_path / "started")
        eventually(lambda: (tmp_path / "seen").exists() and (tmp_path / "seen").read_text() == seen)
        (tmp_path / "started").unlink()
        second = jobs.submit()
        eventually((tmp_path / "started").exists)
        assert jobs.state(second) == "IN_PROGRESS"
        assert worker.handler_process() == process
        assert jobs.state(job) == "CANCELLED"

    def test_replaces_the_process_of_a_plain_function_at_once(
        self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path
    ) -> None:
        worker = start_worker(OBEDIENT, RUNLANE_STOP_GRACE_SECONDS="30")
        process = worker.handler_process()
        job = jobs.submit({"touch": str(tmp_path / "started"), "sleep": 60})
        self.stop(worker, jobs, job, tmp_path / "started")
        assert jobs.run()["pid"] != process
        assert not is_alive(process)
        assert jobs.fields(job)["attempt"] == "1"

    def test_costs_the_jobs_behind_no_attempt(self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path) -> None:
        worker = start_worker(OBEDIENT)
        for number in range(4):
            path = tmp_path / f"started-{number}"
            stopped = jobs.submit({"touch": str(path), "sleep": 60})
            behind = [jobs.submit() for _ in range(3)]
            self.stop(worker, jobs, stopped, path)
            assert [json.loads(jobs.wait(job)["output"])["attempt"] for job in behind] == [1, 1, 1]

    def test_replaces_the_process_of_an_async_handler_that_does_not_obey(
        self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path
    ) -> None:
        worker = start_worker(
            """
import asyncio
import handler_sdk
async def handler(job):
    while job["input"]:
        open("started", "w").close()
        try: await asyncio.sleep(60)
        except asyncio.CancelledError: pass
    return 1
handler_sdk.start({"handler": handler})
""",
            RUNLANE_STOP_GRACE_SECONDS="0.3",
        )
        self.stop(worker, jobs, jobs.submit(1), tmp_path / "started")
        assert jobs.run(0) == 1
        assert "does not stop" in worker.log

    def test_of_one_job_puts_the_others_of_its_process_back(
        self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path
    ) -> None:
        worker = start_worker("""
import os, time
import handler_sdk
def handler(job):
    open(f"started-{job['id']}-{job['attempt']}", "w").close()
    if job["attempt"] == 1: time.sleep(60)
    return job["attempt"]
handler_sdk.start({"handler": handler, "concurrency_modifier": lambda current: 2})
""")
        first, second = jobs.submit(), jobs.submit()
        eventually((tmp_path / f"started-{second}-1").exists)
        self.stop(worker, jobs, first, tmp_path / f"started-{first}-1")
        assert jobs.wait(second)["output"] == "2"
        assert f"killed to stop another job, {first}" in worker.log

    def test_of_a_job_whose_result_is_on_its_way_disturbs_no_other(
        self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path, store: Store
    ) -> None:
        worker = start_worker("""
import asyncio, os
import handler_sdk
async def handler(job):
    yield "first"
    open(f"started-{job['id']}", "w").close()
    while not os.path.exists(job["input"]): await asyncio.sleep(0.01)
    yield "last"
    open(f"ended-{job['id']}", "w").close()
handler_sdk.start({"handler": handler, "concurrency_modifier": lambda current: 2})
""")
        process = worker.handler_process()
        first, second = jobs.submit("go-1"), jobs.submit("go-2")
        for job in (first, second):
            eventually((tmp_path / f"started-{job}").exists)
        store.client.config_set("maxmemory", 1)  # chunks are refused, and repeated
        try:
            (tmp_path / "go-1").touch()
            eventually((tmp_path / f"ended-{first}").exists)
            jobs.cancel(first)
            worker.wait_for(f"job {first} (attempt 1) is over")
        finally:
            store.client.config_set("maxmemory", 0)
        (tmp_path / "go-2").touch()
        assert (jobs.wait(second)["state"], jobs.fields(second)["attempt"]) == ("COMPLETED", "1")
        assert worker.handler_process() == process

    def test_replaces_a_process_that_hangs_before_the_job_begins(
        self, start_worker: StartWorker, jobs: Jobs, store: Store, tmp_path: Path
    ) -> None:
        worker = start_worker("""
import asyncio, time
import handler_sdk
def trap():
    open("trapped", "w").close()
    time.sleep(60)
async def handler(job):
    if job["input"] == "leave a trap": asyncio.get_running_loop().call_later(0.1, trap)
    return 1
handler_sdk.start({"handler": handler})
""")
        process = worker.handler_process()
        jobs.run("leave a trap")
        eventually((tmp_path / "trapped").exists)
        eventually(lambda: store.client.zcard(f"{BASE}:waiting"))
        assert jobs.wait(jobs.submit(timeout_ms=300))["state"] == "TIMED_OUT"
        assert jobs.run() == 1
        assert worker.handler_process() != process

    def test_comes_with_the_execution_timeout(self, start_worker: StartWorker, jobs: Jobs) -> None:
        worker = start_worker(OBEDIENT)
        process = worker.handler_process()
        fields = jobs.wait(jobs.submit({"sleep": 60}, timeout_ms=300))
        assert fields["state"] == "TIMED_OUT"
        assert jobs.run()["pid"] != process
        assert "TIMED_OUT: its handler is stopped" in worker.log

    def test_ends_what_the_handler_started(self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path) -> None:
        worker = start_worker("""
import subprocess
import handler_sdk
def handler(job):
    child = subprocess.Popen(["sleep", "60"])
    open("child", "w").write(str(child.pid))
    child.wait()
handler_sdk.start({"handler": handler})
""")
        job = jobs.submit()
        eventually(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
        child = int((tmp_path / "child").read_text())
        assert is_alive(child)
        self.stop(worker, jobs, job, tmp_path / "child")
        eventually(lambda: not is_alive(child))


class TestConcurrency:
    SOURCE = """
import asyncio, os, time
import handler_sdk
def wanted(current):
    return int(open("wanted").read())
{head} handler(job):
    while not os.path.exists(job["input"]): {sleep}(0.01)
handler_sdk.start({{"handler": handler, "concurrency_modifier": wanted}})
"""

    @pytest.mark.parametrize(("head", "sleep"), [("def", "time.sleep"), ("async def", "await asyncio.sleep")])
    def test_is_resized_while_jobs_run(
        self, head: str, sleep: str, start_worker: StartWorker, jobs: Jobs, tmp_path: Path
    ) -> None:
        (tmp_path / "wanted").write_text("2")
        worker = start_worker(self.SOURCE.format(head=head, sleep=sleep))
        many = [jobs.submit(f"end-{number}") for number in range(6)]

        def running() -> list[int]:
            return [number for number, job in enumerate(many) if jobs.state(job) == "IN_PROGRESS"]

        eventually(lambda: running() == [0, 1])
        (tmp_path / "wanted").write_text("4")
        eventually(lambda: running() == [0, 1, 2, 3])
        (tmp_path / "wanted").write_text("1")
        worker.wait_for("concurrency is now 1")
        for number in (0, 1, 2):
            (tmp_path / f"end-{number}").touch()
            jobs.wait(many[number], "COMPLETED")
        assert running() == [3]
        (tmp_path / "end-3").touch()
        eventually(lambda: running() == [4])

    def test_keeps_its_value_when_the_modifier_fails(self, start_worker: StartWorker, jobs: Jobs) -> None:
        worker = start_worker("""
import handler_sdk
handler_sdk.start({"handler": lambda job: 1, "concurrency_modifier": lambda current: current / 0})
""")
        assert jobs.run() == 1
        assert "concurrency_modifier failed" in worker.log


class TestRefreshWorker:
    def test_imports_afresh_after_the_job(self, start_worker: StartWorker, jobs: Jobs) -> None:
        worker = start_worker(OBEDIENT)
        process = worker.handler_process()
        assert jobs.run()["pid"] == process
        assert jobs.run({"return": {"refresh_worker": True, "text": "x"}}) == {"text": "x"}
        assert jobs.run()["pid"] != process
        assert "given up" not in worker.log

    def test_in_the_config_imports_afresh_after_every_job(self, start_worker: StartWorker, jobs: Jobs) -> None:
        start_worker("""
import os
import handler_sdk
handler_sdk.start({"handler": lambda job: os.getpid(), "refresh_worker": True})
""")
        assert len({jobs.run() for _ in range(3)}) == 3

    def test_lets_the_process_end_in_order(self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path) -> None:
        start_worker("""
import handler_sdk
def handler(job):
    yield {"refresh_worker": True}
handler_sdk.start({"handler": handler})
open("after", "w").close()
""")
        jobs.wait(jobs.submit())
        eventually((tmp_path / "after").exists)


class TestCrashes:
    def test_are_retried_up_to_the_limit(self, start_worker: StartWorker, jobs: Jobs) -> None:
        worker = start_worker(OBEDIENT)
        job = jobs.submit({"exit": 1})
        fields = jobs.wait(job)
        assert fields["state"] == "FAILED"
        assert fields["error"] == "the handler process exited with status 1 (attempt 3 of 3)"
        assert fields["attempt"] == "3"
        assert jobs.run()["attempt"] == 1
        assert worker.process.poll() is None

    def test_cost_jobs_that_had_not_begun_no_try(
        self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path, store: Store, gateway: Gateway
    ) -> None:
        start_worker("""
import os, time
import handler_sdk
async def handler(job):
    if job["input"] == "die" and job["attempt"] == 1:
        open("started", "w").close()
        while not os.path.exists("go"): time.sleep(0.01)
        os._exit(1)
    return job["attempt"]
handler_sdk.start({"handler": handler, "concurrency_modifier": lambda current: 2})
""")
        if gateway.link == "redis":
            eventually(lambda: store.client.pubsub_shardnumsub(f"{BASE}:worker:worker-1")[0][1])
        eventually(lambda: store.client.zcard(f"{BASE}:waiting"))
        first = jobs.submit("die")
        eventually((tmp_path / "started").exists)
        behind = jobs.submit()
        eventually(lambda: jobs.state(behind) == "IN_PROGRESS")
        (tmp_path / "go").touch()
        assert (jobs.wait(behind)["attempt"], jobs.wait(behind)["tries"]) == ("2", "1")
        assert (jobs.wait(first)["attempt"], jobs.wait(first)["tries"]) == ("2", "2")

    def test_name_the_signal(self, start_worker: StartWorker, jobs: Jobs, store: Store) -> None:
        store.configure("attempts", 1)
        start_worker(OBEDIENT)
        assert (
            jobs.error({"signal": signal.SIGSEGV})
            == "the handler process was killed by signal 11 (SIGSEGV) (attempt 1 of 1)"
        )

    def test_lose_no_result_that_was_ready(self, start_worker: StartWorker, jobs: Jobs) -> None:
        worker = start_worker("""
import os, threading
import handler_sdk
def handler(job):
    if job["input"]: threading.Timer(0.2, os._exit, [1]).start()
    return job["attempt"]
handler_sdk.start({"handler": handler})
""")
        assert jobs.run(True) == 1
        eventually(lambda: "another one takes its place" in worker.log)
        assert jobs.run(False) == 1

    def test_of_the_worker_leave_no_process_behind(
        self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path, store: Store
    ) -> None:
        worker = start_worker(OBEDIENT)
        process = worker.handler_process()
        job = jobs.submit({"touch": str(tmp_path / "started"), "hold_interpreter": 30})
        eventually((tmp_path / "started").exists)
        worker.process.kill()
        eventually(lambda: not is_alive(process), 3)
        # The lease lapses, and the job goes back.
        jobs.wait(job, "IN_QUEUE", 4)


class TestLeases:
    def test_last_while_the_handler_holds_the_interpreter(self, start_worker: StartWorker, jobs: Jobs) -> None:
        start_worker(OBEDIENT)
        assert jobs.run({"hold_interpreter": 3})["attempt"] == 1

    def test_last_while_the_store_is_idle_for_the_job(self, start_worker: StartWorker, jobs: Jobs) -> None:
        start_worker(OBEDIENT)
        assert jobs.run({"sleep": 2.5})["attempt"] == 1

    def test_last_for_jobs_that_wait_in_a_process_whose_loop_is_blocked(
        self, start_worker: StartWorker, jobs: Jobs
    ) -> None:
        start_worker("""
import time
import handler_sdk
async def handler(job):
    time.sleep(1.5)
    return job["attempt"]
handler_sdk.start({"handler": handler, "concurrency_modifier": lambda current: 4})
""")
        many = [jobs.submit() for _ in range(4)]
        assert [jobs.wait(job)["output"] for job in many] == ["1"] * 4

    def test_that_lapsed_stop_the_handler(self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path) -> None:
        worker = start_worker(OBEDIENT)
        job = jobs.submit({"touch": str(tmp_path / "started"), "wait_for": str(tmp_path / "go")})
        eventually((tmp_path / "started").exists)
        worker.process.send_signal(signal.SIGSTOP)
        jobs.wait(job, "IN_QUEUE", 4)
        (tmp_path / "go").touch()
        worker.process.send_signal(signal.SIGCONT)
        # One may have been sent to the process that was being replaced: that is no try, but has a number.
        assert json.loads(jobs.wait(job)["output"])["attempt"] > 1


class TestStart:
    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
            ("x = 1", "it ended without a call of handler_sdk.start()"),
            ("raise SystemExit(4)", "it exited with status 4 before handler_sdk.start()"),
            ("import os; os._exit(9)", "the handler process exited with status 9"),
            ("import handler_sdk; handler_sdk.start({})", "TypeError: handler_sdk.start() needs"),
            ("def f(:", "SyntaxError: invalid syntax"),
        ],
    )
    def test_fails_quickly_when_the_handler_cannot_be_loaded(
        self, source: str, reason: str, start_worker: StartWorker
    ) -> None:
        worker = start_worker(source, loaded=False)
        assert worker.wait(10) == 1
        assert f"handler handler.py failed to import: {reason}" in worker.log

    def test_shows_where_an_import_failed(self, start_worker: StartWorker) -> None:
        worker = start_worker("def load():\n    raise OSError('no weights')\nload()", loaded=False)
        assert worker.wait(10) == 1
        assert 'handler.py", line 2, in load' in worker.log
        assert "runpy" not in worker.log

    @pytest.mark.parametrize(
        ("status", "text"),
        [(401, "does not accept the key"), (403, "may not register"), (404, "runlane endpoint create sdk")],
    )
    def test_ends_when_the_gateway_refuses(
        self, status: int, text: str, start_worker: StartWorker, gateway: Gateway
    ) -> None:
        gateway.status = status
        worker = start_worker(ECHO, loaded=False)
        assert worker.wait(10) == 1
        assert text in worker.log

    def test_waits_for_the_gateway_and_can_be_ended_meanwhile(
        self, start_worker: StartWorker, gateway: Gateway, jobs: Jobs
    ) -> None:
        gateway.status = 503
        worker = start_worker(ECHO)
        worker.wait_for("waiting for the gateway")
        other = start_worker(ECHO)
        gateway.status = 200
        jobs.run()
        gateway.status = 503
        assert other.end() == 0
        assert worker.log.count("waiting for the gateway") == 1

    def test_sends_key_id_and_description(self, start_worker: StartWorker, gateway: Gateway, store: Store) -> None:
        start_worker(ECHO, RUNLANE_WORKER_KEY="key", RUNLANE_WORKER_ID="mine", RUNLANE_URL=gateway.url + "/v2/")
        eventually(lambda: store.client.hget("runlane:{sdk}:worker:mine", "state") == "ready")
        assert gateway.keys == ["Bearer key"]
        assert gateway.registrations[0]["id"] == "mine"
        description = json.loads(store.client.hget("runlane:{sdk}:worker:mine", "description"))
        assert description["sdk"].startswith("runlane ")
        assert set(description) == {"sdk", "hostname", "pid", "python"}

    def test_says_initializing_until_the_handler_is_loaded(
        self, start_worker: StartWorker, store: Store, tmp_path: Path, jobs: Jobs
    ) -> None:
        job = jobs.submit()
        start_worker("import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n" + ECHO, loaded=False)
        eventually(lambda: store.client.hget("runlane:{sdk}:worker:worker-1", "state") == "initializing")
        assert jobs.state(job) == "IN_QUEUE"
        (tmp_path / "go").touch()
        jobs.wait(job)
        assert store.client.hget("runlane:{sdk}:worker:worker-1", "state") == "ready"

    def test_from_python_loads_the_file_again_with_its_arguments(
        self, gateway: Gateway, jobs: Jobs, tmp_path: Path
    ) -> None:
        (tmp_path / "handler.py").write_text(
            "import sys, neighbour\nimport handler_sdk\n"
            "handler_sdk.start({'handler': lambda job: [sys.argv, __name__, neighbour.x]})\n"
        )
        (tmp_path / "neighbour.py").write_text("x = 5\n")
        command = [sys.executable, str(tmp_path / "handler.py"), "--voice", "b"]
        environment = {"RUNLANE_URL": gateway.url, "RUNLANE_ENDPOINT": "sdk"}
        worker = WorkerProcess(command, environment, Path("/"))
        try:
            assert jobs.run() == [[str(tmp_path / "handler.py"), "--voice", "b"], "__main__", 5]
            assert "will be loaded again under supervision" in worker.log
        finally:
            worker.end(signal.SIGKILL)

    @pytest.mark.parametrize(
        ("environment", "text"),
        [
            ({}, "RUNLANE_URL is not set"),
            ({"RUNLANE_URL": "http://x"}, "RUNLANE_ENDPOINT is not set"),
            (
                {"RUNLANE_URL": "x", "RUNLANE_ENDPOINT": "y", "RUNLANE_DRAIN_SECONDS": "z"},
                "must be a number of seconds",
            ),
            ({"RUNLANE_LOG_LEVEL": "loud"}, "RUNLANE_LOG_LEVEL must be"),
            ({"RUNLANE_URL": "x", "RUNLANE_ENDPOINT": "y", "RUNLANE_LINK": "z"}, "RUNLANE_LINK must be"),
        ],
    )
    def test_says_what_is_wrong_with_the_environment(
        self, environment: dict[str, str], text: str, tmp_path: Path
    ) -> None:
        (tmp_path / "handler.py").write_text(ECHO)
        worker = WorkerProcess([sys.executable, "-m", "handler_sdk", "handler.py"], environment, tmp_path)
        assert worker.wait(10) == 2
        assert text in worker.log

    def test_backs_off_and_is_unhealthy_when_a_later_import_fails(
        self, start_worker: StartWorker, store: Store, tmp_path: Path, jobs: Jobs
    ) -> None:
        worker = start_worker("import os\nif os.path.exists('broken'): raise OSError('no GPU')\n" + OBEDIENT)
        (tmp_path / "broken").touch()
        job = jobs.submit({"exit": 1})
        worker.wait_for("OSError: no GPU; the next try is in")
        eventually(lambda: store.client.hget("runlane:{sdk}:worker:worker-1", "state") == "unhealthy")
        assert jobs.state(job) == "IN_QUEUE"
        (tmp_path / "broken").unlink()
        worker.wait_for("is loaded", times=2)
        assert jobs.wait(job)["state"] == "FAILED"

    def test_in_a_process_of_the_handler_is_refused(self, start_worker: StartWorker, jobs: Jobs) -> None:
        start_worker("""
import subprocess, sys
import handler_sdk
def handler(job):
    return subprocess.run([sys.executable, __file__], capture_output=True, text=True).stderr
handler_sdk.start({"handler": handler})
""")
        assert "put the call under" in jobs.run()


class TestDrain:
    def test_lets_the_job_finish_within_the_grace(
        self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path, gateway: Gateway, store: Store
    ) -> None:
        worker = start_worker(OBEDIENT)
        job = jobs.submit({"touch": str(tmp_path / "started"), "wait_for": str(tmp_path / "go"), "return": "done"})
        eventually((tmp_path / "started").exists)
        worker.wait_for(f"job {job} (attempt 1) begins")  # the worker's own process has heard of it
        waiting = jobs.submit()
        worker.process.terminate()
        worker.wait_for("taking no more jobs, 1 in hand")
        (tmp_path / "go").touch()
        assert worker.wait() == 0
        assert jobs.wait(job)["output"] == '"done"'
        assert jobs.state(waiting) == "IN_QUEUE"
        assert gateway.left == ["worker-1"]
        assert not store.client.exists("runlane:{sdk}:worker:worker-1")

    def test_gives_back_a_job_that_takes_longer(self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path) -> None:
        worker = start_worker(OBEDIENT, RUNLANE_DRAIN_SECONDS="0.3")
        process = worker.handler_process()
        job = jobs.submit({"touch": str(tmp_path / "started"), "sleep": 60})
        eventually((tmp_path / "started").exists)
        assert worker.end() == 0
        assert jobs.state(job) == "IN_QUEUE"
        assert not is_alive(process)
        start_worker(ECHO)
        assert json.loads(jobs.wait(job)["output"])["attempt"] == 2

    def test_past_the_grace_counts_as_a_try(
        self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path, store: Store
    ) -> None:
        store.configure("attempts", 1)
        worker = start_worker(OBEDIENT, RUNLANE_DRAIN_SECONDS="0.1")
        job = jobs.submit({"touch": str(tmp_path / "started"), "sleep": 60})
        eventually((tmp_path / "started").exists)
        assert worker.end() == 0
        assert jobs.fields(job)["error"] == "worker worker-1 left before the job ended (attempt 1 of 1)"

    def test_costs_jobs_that_had_not_begun_no_try(
        self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path, store: Store
    ) -> None:
        worker = start_worker(
            """
import time
import handler_sdk
async def handler(job):
    open("started", "w").close()
    time.sleep(60)
handler_sdk.start({"handler": handler, "concurrency_modifier": lambda current: 2})
""",
            RUNLANE_DRAIN_SECONDS="0.1",
        )
        eventually(lambda: store.client.zcard(f"{BASE}:waiting"))
        first = jobs.submit()
        eventually((tmp_path / "started").exists)
        behind = jobs.submit()
        jobs.wait(behind, "IN_PROGRESS")
        assert worker.end() == 0
        assert [jobs.fields(job)["tries"] for job in (first, behind)] == ["1", "0"]
        assert [jobs.state(job) for job in (first, behind)] == ["IN_QUEUE"] * 2

    def test_does_not_wait_for_a_process_that_crashed_meanwhile(
        self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path
    ) -> None:
        worker = start_worker(OBEDIENT)
        job = jobs.submit({"touch": str(tmp_path / "started"), "wait_for": str(tmp_path / "go"), "exit": 1})
        eventually((tmp_path / "started").exists)
        worker.wait_for(f"job {job} (attempt 1) begins")
        worker.process.terminate()
        worker.wait_for("taking no more jobs, 1 in hand")
        (tmp_path / "go").touch()
        assert worker.wait(10) == 0  # the grace is 30 s
        assert (jobs.state(job), jobs.fields(job)["tries"]) == ("IN_QUEUE", "1")

    def test_cancels_async_handlers_after_the_grace(
        self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path
    ) -> None:
        worker = start_worker(
            """
import asyncio
import handler_sdk
async def handler(job):
    open("started", "w").close()
    try: await asyncio.sleep(60)
    except asyncio.CancelledError: open("seen", "w").close(); raise
handler_sdk.start({"handler": handler})
""",
            RUNLANE_DRAIN_SECONDS="0",
        )
        job = jobs.submit()
        eventually((tmp_path / "started").exists)
        worker.wait_for("begins")
        assert worker.end() == 0
        assert (tmp_path / "seen").exists()
        assert jobs.state(job) == "IN_QUEUE"

    def test_ends_at_once_with_a_second_signal(self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path) -> None:
        worker = start_worker(OBEDIENT)
        job = jobs.submit({"touch": str(tmp_path / "started"), "sleep": 60})
        eventually((tmp_path / "started").exists)
        worker.process.terminate()
        worker.wait_for("taking no more")
        assert worker.end(signal.SIGINT, 5) == 0
        assert jobs.state(job) == "IN_QUEUE"

    def test_while_waiting_for_jobs_loses_none(self, start_worker: StartWorker, jobs: Jobs, store: Store) -> None:
        worker = start_worker(ECHO)
        eventually(lambda: store.client.zcard(f"{BASE}:waiting") > 0)
        worker.process.terminate()
        many = [jobs.submit()]
        while worker.process.poll() is None:
            many.append(jobs.submit())
        assert worker.wait() == 0
        many.append(jobs.submit())
        assert all(int(jobs.fields(job).get("tries", "0")) <= 1 for job in many)
        states = {jobs.state(job) for job in many}
        assert states <= {"IN_QUEUE", "COMPLETED"}
        start_worker(ECHO)
        assert {jobs.wait(job)["tries"] for job in many} == {"1"}

    def test_while_the_handler_loads_ends_at_once(self, start_worker: StartWorker) -> None:
        worker = start_worker("import time; print('loading now'); time.sleep(60)", loaded=False)
        worker.wait_for("loading now")
        began = time.monotonic()
        assert worker.end() == 0
        assert time.monotonic() - began < 4

    def test_is_not_disturbed_by_a_signal_to_the_whole_group(
        self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path
    ) -> None:
        worker = start_worker(OBEDIENT)
        job = jobs.submit({"touch": str(tmp_path / "started"), "wait_for": str(tmp_path / "go"), "return": 1})
        eventually((tmp_path / "started").exists)
        os.kill(worker.handler_process(), signal.SIGTERM)
        worker.process.terminate()
        worker.wait_for("taking no more")
        (tmp_path / "go").touch()
        assert worker.wait() == 0
        assert jobs.wait(job)["output"] == "1"


class TestStoreOutage:
    def test_delivers_the_result_when_the_store_is_back(self, tmp_path: Path) -> None:
        store = Store(tmp_path, "--appendfsync", "always")
        store.prepare()
        gateway = Gateway(store)
        jobs = Jobs(store)
        (tmp_path / "handler.py").write_text("""
import os, time
import handler_sdk
def handler(job):
    yield "before"
    while not os.path.exists("go"): time.sleep(0.01)
    for number in range(100): yield number
    open("ended", "w").close()
handler_sdk.start({"handler": handler, "return_aggregate_stream": True})
""")
        environment = {"RUNLANE_URL": gateway.url, "RUNLANE_ENDPOINT": "sdk"}
        worker = WorkerProcess([sys.executable, "-m", "handler_sdk", "handler.py"], environment, tmp_path)
        try:
            job = jobs.submit()
            eventually(lambda: jobs.chunks(job) == ["before"])
            store.configure("lease_ms", 30000)
            store.kill()
            (tmp_path / "go").touch()
            eventually((tmp_path / "ended").exists)
            worker.wait_for("the store does not serve this worker")
            store.start()
            fields = jobs.wait(job)
            assert (fields["state"], fields["attempt"]) == ("COMPLETED", "1")
            assert jobs.chunks(job) == ["before", *range(100)]
            worker.wait_for("the store is back")
            assert worker.log.count("the store does not serve this worker") == 1
            assert jobs.wait(jobs.submit())["state"] == "COMPLETED"
        finally:
            worker.end(signal.SIGKILL)
            gateway.close()
            store.client.close()
            store.kill()

    @pytest.mark.only_over("redis")
    def test_registers_again_when_the_store_has_forgotten_everything(
        self, start_worker: StartWorker, store: Store, jobs: Jobs, gateway: Gateway
    ) -> None:
        worker = start_worker(OBEDIENT)
        jobs.run()
        store.client.function_flush()
        worker.wait_for("the store does not serve this worker")
        store.prepare()
        assert jobs.run()["attempt"] == 1
        assert [body.get("id") for body in gateway.registrations][1] == "worker-1"

    def test_holds_a_fast_stream_back_instead_of_growing(
        self, start_worker: StartWorker, store: Store, jobs: Jobs, tmp_path: Path, gateway: Gateway
    ) -> None:
        gateway.lease_ms = 30000
        store.configure("lease_ms", 30000)
        start_worker("""
import os, time
import handler_sdk
def handler(job):
    yield "first"
    while not os.path.exists("go"): time.sleep(0.01)
    for number in range(300):
        open("count", "w").write(str(number))
        yield "x" * 200000
handler_sdk.start({"handler": handler})
""")
        job = jobs.submit()
        eventually(lambda: jobs.chunks(job))
        store.client.config_set("maxmemory", 1)
        try:
            (tmp_path / "go").touch()
            eventually((tmp_path / "count").exists)
            assert 35 <= int(eventually(lambda: stands_still(tmp_path / "count"))) <= 45
        finally:
            store.client.config_set("maxmemory", 0)
        assert jobs.wait(job)["state"] == "COMPLETED"
        assert jobs.fields(job)["chunks"] == "301"


def stands_still(path: Path) -> str:
    before = path.read_text()
    time.sleep(0.3)
    return before if before and path.read_text() == before else ""

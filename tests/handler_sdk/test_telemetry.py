"""What real workers tell besides their signs of life."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from .conftest import BASE, Gateway, Jobs, StartWorker, Store, eventually

# Does what the job says.
PRINTING = """
import ctypes, faulthandler, os, subprocess, sys
import handler_sdk

faulthandler.enable()
print("loading")

def handler(job):
    exec(job["input"])

handler_sdk.start({"handler": handler})
"""

Log = Callable[[], list[str]]


@pytest.fixture
def log(store: Store) -> Log:
    """The lines that the store has of the worker, but for those of the worker's own process."""

    def read() -> list[str]:
        entries = store.client.xrange(f"{BASE}:log:worker-1")
        return [entry["text"] for _, entry in entries if not re.match(r"\d{4}-\d\d-\d\d \d\d:", entry["text"])]

    return read


def streams(store: Store) -> set[tuple[str, str]]:
    return {(entry["stream"], entry["text"]) for _, entry in store.client.xrange(f"{BASE}:log:worker-1")}


class TestLog:
    def test_has_what_both_processes_print(self, start_worker: StartWorker, jobs: Jobs, store: Store, log: Log) -> None:
        worker = start_worker(PRINTING)
        jobs.run("print('out'); print('err', file=sys.stderr); os.write(1, b'raw\\n')")
        eventually(lambda: len(log()) == 4)
        assert sorted(log()) == ["err", "loading", "out", "raw"]
        assert {("stdout", "out"), ("stderr", "err")} <= streams(store)
        own = [text for stream, text in streams(store) if "handler.py is loaded" in text]
        assert len(own) == 1
        worker.wait_for("\nout\n")
        worker.wait_for("\nerr\n")
        ages = [int(id.partition("-")[0]) - int(e["at"]) for id, e in store.client.xrange(f"{BASE}:log:worker-1")]
        assert all(age >= 0 for age in ages)

    def test_keeps_the_order_of_a_stream(self, start_worker: StartWorker, jobs: Jobs, log: Log) -> None:
        start_worker(PRINTING)
        for first in range(0, 400, 100):
            jobs.run(f"for number in range({first}, {first + 100}): print(number)")
        eventually(lambda: log()[-1:] == ["399"])
        assert log() == ["loading", *map(str, range(400))]

    @pytest.mark.parametrize(
        ("end", "says"),
        [("os.abort()", "Aborted"),  # behind "Fatal Python error: ", from which another line may part it
         ("ctypes.string_at(0)", "Segmentation fault"),
         ("print('half', end='', flush=True); os._exit(3)", "half")],
    )  # fmt: skip
    def test_has_the_last_words_of_a_process(
        self, start_worker: StartWorker, jobs: Jobs, log: Log, store: Store, end: str, says: str
    ) -> None:
        store.configure("attempts", 1)
        worker = start_worker(PRINTING)
        jobs.wait(jobs.submit(end))
        worker.end()
        assert any(line.endswith(says) for line in log())

    def test_has_the_last_words_of_a_worker_that_ends(
        self, start_worker: StartWorker, gateway: Gateway, log: Log
    ) -> None:
        worker = start_worker("print('no handler here'); 1 / 0", loaded=False)
        assert worker.wait() == 1
        # The handler's file may fail before there is a registration, and then nobody can be told.
        assert not gateway.left or "ZeroDivisionError: division by zero" in log()

    def test_has_what_the_processes_of_the_handler_print(
        self, start_worker: StartWorker, jobs: Jobs, log: Log, tmp_path: Path
    ) -> None:
        worker = start_worker(PRINTING)
        jobs.run("subprocess.run('echo from a child; echo trouble >&2', shell=True)")
        eventually(lambda: sorted(log()) == ["from a child", "loading", "trouble"])
        # One that goes its own way holds on to the pipe, and the worker still ends.
        child = "subprocess.Popen('echo daemon; exec sleep 1000', shell=True, start_new_session=True).pid"
        jobs.run(f"open('pid', 'w').write(str({child}))")
        eventually(lambda: "daemon" in log())
        try:
            assert worker.end() == 0
        finally:
            psutil.Process(int((tmp_path / "pid").read_text())).kill()

    def test_of_a_flood_has_the_end(self, start_worker: StartWorker, jobs: Jobs, store: Store, log: Log) -> None:
        """A handler that prints for its life is not held up by the store."""
        worker = start_worker(PRINTING)
        line = "'~' * 93 + '%06d' % number"
        jobs.run(f"sys.stdout.write(''.join({line} + chr(10) for number in range(200_000)))")
        jobs.run("print('that was all')")
        eventually(lambda: "that was all" in log())
        found = log()
        assert len(found) <= 500
        kept = [int(text[93:]) for text in found if text.startswith("~")]
        assert kept == sorted(set(kept))
        assert kept[-1] == 199_999
        worker.wait_for("that was all")
        assert worker.log.count("~") == 200_000 * 93

    def test_is_told_once_when_the_gateway_or_the_store_was_away(
        self, start_worker: StartWorker, jobs: Jobs, gateway: Gateway, log: Log
    ) -> None:
        start_worker(PRINTING)
        for number in range(5):
            job = jobs.submit(f"print({number})")
            gateway.cut_listeners()
            jobs.wait(job)
        eventually(lambda: log()[-1:] == ["4"])
        assert log() == ["loading", *"01234"]

    def test_is_not_told_when_that_is_switched_off(self, start_worker: StartWorker, jobs: Jobs, store: Store) -> None:
        worker = start_worker(PRINTING, RUNLANE_SHIP_LOGS="off")
        jobs.run("os.write(1, b'out %d\\n' % sys.stdout.fileno())")  # in one piece: the log goes there, too
        worker.wait_for("\nout 1\n")
        eventually(lambda: store.client.hexists(f"{BASE}:worker:worker-1", "metrics"))
        assert not store.client.exists(f"{BASE}:log:worker-1")


class TestFigures:
    def test_come_with_every_worker(self, start_worker: StartWorker, store: Store) -> None:
        start_worker(PRINTING)
        told = eventually(lambda: store.client.hget(f"{BASE}:worker:worker-1", "metrics"))
        found = json.loads(told)
        assert 0 <= found["cpu_percent"] <= 100
        assert 0 < found["memory_used_bytes"] < found["memory_total_bytes"]
        assert isinstance(found["gpus"], list)

    def test_are_measured_by_the_worker_s_own_process(
        self, start_worker: StartWorker, jobs: Jobs, tmp_path: Path
    ) -> None:
        start_worker(PRINTING)
        jobs.run("open('modules', 'w').write(' '.join(sys.modules))")
        loaded = (tmp_path / "modules").read_text().split()
        assert not {"pynvml", "handler_sdk.figures"} & set(loaded)

    def test_do_not_keep_a_worker_from_leaving(self, start_worker: StartWorker, store: Store, tmp_path: Path) -> None:
        """A library whose calls never come back."""
        (tmp_path / "pynvml.py").write_text("import time\ndef nvmlInit(): time.sleep(1000)\n")
        worker = start_worker(PRINTING)
        eventually(lambda: store.client.hexists(f"{BASE}:worker:worker-1", "metrics"))
        assert worker.end(signal.SIGTERM) == 0

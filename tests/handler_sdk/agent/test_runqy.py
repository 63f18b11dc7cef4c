"""Task code that uses Runqy's own packages, unmodified: runqy-python 0.2.2 and runqy-task 0.1.0."""

from pathlib import Path

import pytest

from ..conftest import eventually
from .conftest import StartAgent
from .server import Queue

TASK = """
import os, sys, time
from runqy_python import RetryableError, load, run, run_once, task

@load
def setup():
    print("loading a model", file=sys.stderr)
    return {"model": os.getpid()}

@task
def process(payload, context):
    print("printed")
    if "touch" in payload: open(payload["touch"], "w").close()
    if "wait_for" in payload:
        while not os.path.exists(payload["wait_for"]): time.sleep(0.01)
    if "raise" in payload: raise ValueError(payload["raise"])
    if "exit" in payload: os._exit(payload["exit"])
    if "retry_until" in payload and not os.path.exists(payload["retry_until"]):
        open(payload["retry_until"], "w").close()
        raise RetryableError("come back later")
    if "size" in payload: return "é" * payload["size"]
    return {"echo": payload, "model": context["model"], "error": None}
"""


class TestALongRunningTask:
    def test_serves_its_jobs_in_one_process(self, start_agent: StartAgent, jobs: Queue) -> None:
        agent = start_agent(TASK + "run()")
        agent.wait_for("loading a model")
        first, second = jobs.run({"number": 2**70, "text": "a\nb"}), jobs.run({"nan": None})
        assert first["echo"] == {"number": 2**70, "text": "a\nb"}
        assert first["model"] == second["model"]
        agent.wait_for("printed", times=2)

    def test_may_print_json_of_its_own(self, start_agent: StartAgent, jobs: Queue) -> None:
        lines = ['{"status": "fetching"}', '{"level": "info"}', "[1]", '{"task_id": "of another time"}']
        agent = start_agent(f"for line in {lines}: print(line)\n" + TASK + "run()")
        assert jobs.run({})["echo"] == {}
        for line in lines[:3]:
            agent.wait_for(line)

    def test_says_why_a_job_failed(self, start_agent: StartAgent, jobs: Queue) -> None:
        start_agent(TASK + "run()")
        assert "ValueError: no such thing" in jobs.error({"raise": "no such thing"})

    def test_has_a_job_tried_again(self, start_agent: StartAgent, jobs: Queue, tmp_path: Path) -> None:
        start_agent(TASK + "run()")
        mark = tmp_path / "mark"
        assert jobs.run({"retry_until": str(mark)})["echo"] == {"retry_until": str(mark)}
        assert mark.exists()

    def test_may_answer_with_as_much_as_a_job_may_have(self, start_agent: StartAgent, jobs: Queue) -> None:
        """Of which Python's json makes three times as much."""
        start_agent(TASK + "run()")
        assert jobs.run({"size": 5_000_000}) == "é" * 5_000_000
        assert jobs.error({"size": 10_100_000}).startswith("the handler's output has 20200002 bytes; the limit is ")
        assert jobs.error({"size": 12_000_000}).startswith("the task's answer has a line of 72000096 bytes; the limit")
        assert jobs.run({})["echo"] == {}

    def test_is_started_again_for_a_cancel_which_it_cannot_hear(
        self, start_agent: StartAgent, jobs: Queue, tmp_path: Path
    ) -> None:
        start_agent(TASK + "run()")
        before = jobs.run({})["model"]
        job = jobs.submit({"touch": str(tmp_path / "begun"), "wait_for": "/nowhere"})
        eventually((tmp_path / "begun").exists)
        jobs.cancel(job)
        assert jobs.run({})["model"] != before

    def test_that_cannot_load_says_so(self, start_agent: StartAgent, jobs: Queue) -> None:
        agent = start_agent(
            "from runqy_python import *\n@load\ndef setup(): raise OSError('no weights')\n@task\ndef f(p): pass\nrun()",
            loaded=False,
        )
        agent.wait_for("the task cannot start: @load failed: no weights")
        eventually(lambda: [each["state"] for each in jobs.workers()] == ["unhealthy"])

    def test_that_crashes_is_noticed_while_another_process_holds_its_output(
        self, start_agent: StartAgent, jobs: Queue
    ) -> None:
        start = 'import subprocess\nsubprocess.Popen(["sleep", "60"])\n'
        agent = start_agent(start + TASK + "run()")
        job = jobs.submit({"exit": 4})
        agent.wait_for("is given up: the task's process exited with status 4")
        jobs.cancel(job)


ANSWERS = """
import json, sys
print('{"status": "ready"}', flush=True)
for line in sys.stdin:
    message = json.loads(line)
    for text in message["payload"]:
        sys.stdout.buffer.write(text.replace("ID", message["task_id"]).encode("latin-1") + b"\\n")
        sys.stdout.flush()
"""


class TestAnAnswer:
    @pytest.mark.parametrize(
        "text",
        [
            '{"task_id": "ID", "resu',
            '{"task_id": "ID", "result": "\xff"}',
            '{"task_id":"ID","result":%s}' % ("1" * 5000),
        ],
    )
    def test_that_is_not_json_fails_its_job(self, text: str, start_agent: StartAgent, jobs: Queue) -> None:
        start_agent(ANSWERS)
        assert jobs.error([text]) == "the task's answer is not JSON"

    def test_comes_behind_whatever_else_is_printed(self, start_agent: StartAgent, jobs: Queue) -> None:
        start_agent(ANSWERS)
        rubbish = [
            "{'task_id': 'ID'}",
            '{"about": {"task_id": "ID"}}',
            '{"about": "task_id": "ID"',
            '{"task_id": "x"',
            "\0",
        ]
        answer = '{"task_id": "ID", "result": [NaN, 1]}'
        assert jobs.run([*rubbish, answer, '{"task_id": "ID", "result": 2}']) == [None, 1]


class TestAOneShotTask:
    def test_has_a_process_for_each_job(self, start_agent: StartAgent, jobs: Queue) -> None:
        start_agent(TASK + "run_once()", mode="one_shot")
        first, second = jobs.run({"n": 1}), jobs.run({"n": 2})
        assert [first["echo"], second["echo"]] == [{"n": 1}, {"n": 2}]
        assert first["model"] != second["model"]

    def test_may_end_in_its_own_time(self, start_agent: StartAgent, jobs: Queue, tmp_path: Path) -> None:
        """It has left before the next one begins."""
        start_agent(
            "import atexit, os, time\nfrom runqy_python import run_once, task\n"
            f"log = lambda text: open({str(tmp_path / 'log')!r}, 'a').write(text)\n"
            "@task\ndef f(payload): log('begun ')\n"
            "atexit.register(lambda: (time.sleep(0.1), log('left ')))\nrun_once()",
            mode="one_shot",
        )
        for _ in range(2):
            assert jobs.run() is None
        eventually(lambda: (tmp_path / "log").read_text() == "left begun left begun left ")  # one was tried at first

    def test_is_cancelled_with_its_process_alone(self, start_agent: StartAgent, jobs: Queue, tmp_path: Path) -> None:
        agent = start_agent(TASK + "run_once()", mode="one_shot")
        job = jobs.submit({"touch": str(tmp_path / "begun"), "wait_for": "/nowhere"})
        eventually((tmp_path / "begun").exists)
        jobs.cancel(job)
        assert jobs.run({"n": 1})["echo"] == {"n": 1}
        assert agent.log.count("is loaded") == 1

    def test_that_crashes_is_tried_again(self, start_agent: StartAgent, jobs: Queue) -> None:
        agent = start_agent(TASK + "run_once()", mode="one_shot")
        job = jobs.submit({"exit": 3})
        agent.wait_for("is given up: the task's process exited with status 3")
        jobs.cancel(job)
        assert jobs.run({"n": 1})["echo"] == {"n": 1}


def test_the_older_package_works_as_well(start_agent: StartAgent, jobs: Queue) -> None:
    start_agent("from runqy_task import *\n@task\ndef f(payload): return {'mine': True, **payload}\nrun()")
    assert jobs.run({"n": 1}) == {"mine": True, "n": 1}


def test_an_agent_for_one_sub_queue_takes_its_tasks_alone(start_agent: StartAgent, jobs: Queue, link: str) -> None:
    """What it tells a task is what Runqy's worker does."""
    jobs.deploy(f"{jobs.name}.high", git_url="https://git.example/code")
    variables = {"RUNQY_QUEUES": f"{jobs.name}.high", "RUNLANE_LINK": link}
    program = """
import json
print(json.dumps({"status": "ready"}), flush=True)
while True:
    task = json.loads(input())
    told = {name: value for name, value in task.items() if name not in ("runlane", "payload", "task_id")}
    print(json.dumps({"task_id": task["task_id"], "result": told}), flush=True)
"""
    start_agent(program, environment=variables, loaded=False, redis_storage=True, limits={"max_retry": 7})
    other, mine = jobs.add("default", {"n": 1}), jobs.add("high", {"n": 2})
    name = f"{jobs.name}.high"
    found = jobs.wait(mine)
    assert found.get("output") == {"type": name, "queue": name, "retry_count": 0, "max_retry": 7}, found
    assert jobs.look(other)["status"] == "IN_QUEUE"
    assert jobs.queues_of_workers() == [f"map[{name}:1]"]

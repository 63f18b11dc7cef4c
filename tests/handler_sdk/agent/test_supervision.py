"""Crashes, kills, drains: what becomes of the jobs."""

import os
import signal
import socket
from pathlib import Path

import pytest
from redis import Redis

from gateway.engine.keys import base

from ...conftest import Servers
from ...gateway import processes
from ...gateway.clients import API_KEY
from ..conftest import eventually
from .conftest import HANDLER, StartAgent
from .repositories import Repository
from .server import Front, Queue

LEASE_SECONDS = 1
FOR_A_BUSY_MACHINE = 2


def leases_are_taken(servers: Servers, endpoint: str) -> bool:
    """Whether upkeep takes them: after a pause of its own, which a new endpoint has not seen, workers may renew."""
    with Redis.from_url(servers.get("valkey").url) as store:
        seconds, _ = store.time()
        return seconds * 1000 > int(store.hget(f"{base(endpoint)}:counts", "settled") or 0)


def is_gone(pid: int) -> bool:
    return not processes.alive(pid)


class TestATaskThatCrashes:
    def test_is_started_again_and_its_job_with_it(self, start_agent: StartAgent, jobs: Queue) -> None:
        agent = start_agent(HANDLER)
        found = jobs.wait(jobs.submit({"exit": 7, "times": 1}))
        assert found["output"]["attempt"] == 2
        agent.wait_for("is given up: the task's process exited with status 7")

    def test_takes_no_jobs_until_it_is_ready(self, start_agent: StartAgent, jobs: Queue, tmp_path: Path) -> None:
        """Twenty jobs wait, and none of them is tried, while the task does not become ready."""
        repaired = tmp_path / "repaired"
        waiting = [jobs.submit() for _ in range(20)]
        agent = start_agent(f"import os\nassert os.path.exists({str(repaired)!r}), 'broken'\n" + HANDLER, loaded=False)
        agent.wait_for("before it was ready; the next try is in ", times=2)
        eventually(lambda: [each["state"] for each in jobs.workers()] == ["unhealthy"])
        assert {jobs.look(job)["status"] for job in waiting} == {"IN_QUEUE"}
        assert jobs.look(waiting[0])["reason"] == "workers_unhealthy"
        repaired.touch()
        assert {jobs.wait(job)["output"]["attempt"] for job in waiting} == {1}

    def test_ends_with_what_it_has_started(self, start_agent: StartAgent, jobs: Queue, tmp_path: Path) -> None:
        start_agent(f"""
import os, subprocess
import handler_sdk
def handler(job):
    child = subprocess.Popen(["sleep", "60"])
    open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
    os._exit(1)
handler_sdk.start({{"handler": handler}})
""")
        job = jobs.submit()
        child = eventually(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
        eventually(lambda: is_gone(int(child)))
        jobs.cancel(job)

    def test_is_killed_when_it_does_not_become_ready(self, start_agent: StartAgent, tmp_path: Path) -> None:
        agent = start_agent(
            f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)",
            loaded=False, startup_timeout_secs=1,
        )  # fmt: skip
        agent.wait_for("the task was not ready within 1 s")
        assert is_gone(int((tmp_path / "pid").read_text()))


class TestAnAgentThatIsKilled:
    @pytest.mark.parametrize("mode", ["long_running", "one_shot"])
    def test_leaves_its_job_to_another(
        self, mode: str, start_agent: StartAgent, jobs: Queue, servers: Servers, tmp_path: Path
    ) -> None:
        agent = start_agent(HANDLER, mode=mode)
        job = jobs.submit({"touch": str(tmp_path / "begun"), "wait_for": str(tmp_path / "go")})
        eventually((tmp_path / "begun").exists)
        family = processes.descendants(agent.process.pid)
        other = start_agent(mode=mode)
        eventually(lambda: leases_are_taken(servers, jobs.name))
        agent.end(signal.SIGKILL)
        other.wait_for(f"job {job} (attempt 2) begins", seconds=LEASE_SECONDS + 1 + FOR_A_BUSY_MACHINE)
        (tmp_path / "go").touch()
        assert jobs.wait(job)["output"]["attempt"] == 2
        assert len(family) == 4  # the bridge, the task, and a guard for each of the agent and the bridge
        eventually(lambda: all(map(is_gone, family)))


CHILD = """
import subprocess, time
import handler_sdk
def handler(job):
    child = subprocess.Popen(["sleep", "60"])
    open(job["input"]["note"], "w").write(str(child.pid))
    time.sleep(60)
"""


def noted(path: Path) -> int:
    return int(eventually(lambda: path.exists() and path.read_text()) or 0)


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
@pytest.mark.parametrize("who", ["agent", "bridge", "agent, by two signals"])
def test_what_the_task_has_started_ends_with_whoever_is_killed(
    who: str, mode: str, start_agent: StartAgent, jobs: Queue, tmp_path: Path
) -> None:
    agent = start_agent(CHILD + "handler_sdk.start({'handler': handler})", mode=mode)
    job = jobs.submit({"note": str(tmp_path / "child")})
    child = noted(tmp_path / "child")
    family = processes.descendants(agent.process.pid)
    if who == "agent":
        agent.end(signal.SIGKILL)
    elif who == "bridge":
        bridge = next(pid for pid in family if b"bridge" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(bridge, signal.SIGKILL)
    else:
        for times in (1, 2):
            agent.process.send_signal(signal.SIGTERM)
            agent.wait_for("SIGTERM: ", times=times)
    eventually(lambda: is_gone(child))
    jobs.cancel(job)


def test_what_installs_ends_with_the_agent(start_agent: StartAgent, tmp_path: Path) -> None:
    """Another agent may install in the same place."""
    note = tmp_path / "installing"
    backend = f"""
import os, time
def build_wheel(*_, **__):
    open({str(note)!r}, "w").write(str(os.getpid()))
    time.sleep(60)
"""
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    agent = start_agent({"main.py": HANDLER, "pyproject.toml": project, "backend.py": backend}, loaded=False)
    noted(note)
    family = processes.descendants(agent.process.pid)
    agent.end(signal.SIGKILL)
    assert len(family) >= 3
    eventually(lambda: all(map(is_gone, family)))


class TestSigterm:
    def test_lets_what_runs_come_to_its_end(self, start_agent: StartAgent, jobs: Queue, tmp_path: Path) -> None:
        agent = start_agent(HANDLER)
        running = jobs.submit({"touch": str(tmp_path / "begun"), "wait_for": str(tmp_path / "go"), "return": 1})
        eventually((tmp_path / "begun").exists)
        agent.process.send_signal(signal.SIGTERM)
        agent.wait_for("taking no more jobs")
        waiting = jobs.submit({"return": 2})
        (tmp_path / "go").touch()
        assert agent.wait() == 0
        assert jobs.wait(running)["output"] == 1
        assert jobs.look(waiting)["status"] == "IN_QUEUE"
        assert jobs.workers() == []

    @pytest.mark.parametrize("signals", [1, 2])
    def test_gives_back_what_does_not_end_in_time_or_at_once(
        self, signals: int, start_agent: StartAgent, jobs: Queue, tmp_path: Path
    ) -> None:
        """That was no try: with as many tries as there may be, the job is tried once more."""
        timeout = "300ms" if signals == 1 else "60s"
        agent = start_agent(HANDLER, "--shutdown-timeout", timeout)
        job = jobs.submit({"touch": str(tmp_path / "begun"), "wait_for": str(tmp_path / "go"), "retry": 3})
        eventually((tmp_path / "begun").exists)
        for _ in range(signals):
            agent.process.send_signal(signal.SIGTERM)
            agent.wait_for("SIGTERM: ")
        agent.wait_for("left")
        assert agent.wait() == 0
        assert jobs.look(job)["status"] == "IN_QUEUE"
        (tmp_path / "go").touch()
        start_agent()
        assert jobs.wait(job, seconds=30)["output"]["attempt"] == 4


class TestTheStart:
    def test_is_tried_again_until_the_server_answers(self, start_agent: StartAgent, jobs: Queue, front: Front) -> None:
        front.failures = 2
        start_agent(HANDLER)
        assert jobs.run({"return": 1}) == 1
        assert len(front.registrations) == 3

    @pytest.mark.parametrize(
        ("deployment", "said"),
        [
            ({"git_url": "file:///nowhere"}, "git failed with status "),
            ({"git_url": "ext::sh -c touch% /tmp/x"}, "begins with none of https, ssh, http, file"),
            ({"branch": "other"}, "has no branch other"),
            ({"code_path": "../.."}, "../.. leads out of the repository"),
            ({"requirements_file": "needs.txt"}, "the repository has no file needs.txt"),
            ({"startup_cmd": "python 'main.py"}, "the startup command cannot be read"),
        ],
    )
    def test_fails_with_a_reason(self, deployment: dict[str, str], said: str, start_agent: StartAgent) -> None:
        agent = start_agent(HANDLER, "--bootstrap-retries", "1", loaded=False, **deployment)
        assert agent.wait() == 1
        assert said in agent.log
        assert agent.log.count("trying again 1 times") == 1

    def test_fails_at_once_when_the_server_refuses(self, start_agent: StartAgent, front: Front) -> None:
        agent = start_agent(HANDLER, loaded=False, environment={"RUNLANE_WORKER_KEY": "wrong"})
        assert agent.wait() == 1
        assert "access unauthorized; set RUNLANE_WORKER_KEY" in agent.log
        assert len(front.registrations) == 1

    def test_can_be_ended_meanwhile(self, start_agent: StartAgent, front: Front) -> None:
        front.failures = 10_000
        agent = start_agent(HANDLER, "--bootstrap-retries", "1000", loaded=False)
        agent.wait_for("trying again")
        assert agent.end() == 0

    def test_can_be_ended_while_git_waits(self, start_agent: StartAgent, jobs: Queue) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            agent = start_agent(HANDLER, loaded=False, git_url=f"http://127.0.0.1:{silent.getsockname()[1]}/x")
            with silent.accept()[0]:
                family = eventually(lambda: processes.descendants(agent.process.pid))
                eventually(lambda: [each["state"] for each in jobs.workers()] == ["initializing"])
                assert agent.end() == 0
            eventually(lambda: all(map(is_gone, family)))

    def test_works_for_several_queues(
        self, start_agent: StartAgent, jobs: Queue, front: Front, repository: Repository
    ) -> None:
        names = (f"{jobs.name}.default", f"{jobs.name}-2")
        jobs.deploy(names[1], git_url=repository.url)
        variables = {"RUNQY_QUEUES": ",".join(names), "RUNLANE_WORKER_KEY": API_KEY}
        agent = start_agent(HANDLER, environment=variables)
        agent.wait_for("is loaded", times=2)
        assert {each["queue"] for each in front.registrations} == set(names)
        assert len(jobs.workers()) == 1
        assert agent.end() == 0


def test_options_of_the_command_line_that_make_no_sense(start_agent: StartAgent) -> None:
    agent = start_agent(HANDLER, "--concurrency", "0", loaded=False)
    assert agent.wait() == 2
    assert "'0' is not a number from 1 to 1000" in agent.log
    assert os.environ.get("RUNQY_QUEUES") is None

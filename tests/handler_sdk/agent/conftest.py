"""Agents as processes, over a real gateway and store and real repositories."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handler_sdk.agent.configuration import Configuration

from ...conftest import Servers
from ...gateway import processes
from ...gateway.clients import API_KEY
from ..conftest import WorkerProcess
from .repositories import Repository
from .server import Front, Queue

HANDLER = """
import json, os, sys, time
import handler_sdk

def handler(job):
    given = job["input"] or {}
    for name, value in given.items():
        if name == "touch": open(value, "w").close()
        elif name == "wait_for":
            while not os.path.exists(value): time.sleep(0.01)
        elif name == "exit" and job["attempt"] <= given.get("times", 99): os._exit(value)
        elif name == "retry" and job["attempt"] <= value: raise handler_sdk.RetryableError("not yet")
        elif name == "environment": return dict(os.environ)
        elif name == "print": print(value)
        elif name == "return": return value
    return {"attempt": job["attempt"], "pid": os.getpid(), "code": CODE}

CODE = 1
handler_sdk.start({"handler": handler})
"""
"""Obeys its job: one handler for many tests."""


@pytest.fixture(scope="session")
def gateway(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[processes.Gateway]:
    url = servers.get("valkey").url
    gateway = processes.Gateway(
        tmp_path_factory.mktemp("gateway"), url, api_keys=API_KEY, rate_limits="off", vault_master_keys="B" * 43 + "="
    )
    yield gateway
    gateway.stop()


@pytest.fixture
def jobs(gateway: processes.Gateway, endpoint: str) -> Iterator[Queue]:
    queue = Queue(gateway.url, endpoint)
    yield queue
    queue.close()


@pytest.fixture
def front(gateway: processes.Gateway) -> Iterator[Front]:
    front = Front(gateway.port)
    yield front
    front.close()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repositories" / "code")


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return Configuration("http://127.0.0.1:1", ("q",), folder=tmp_path / "deployments")


StartAgent = Callable[..., WorkerProcess]


@pytest.fixture
def start_agent(front: Front, jobs: Queue, repository: Repository, tmp_path: Path) -> Iterator[StartAgent]:
    """Starts an agent for the repository, into which it commits `files` before, and returns it once its task is ready.
    The other arguments are fields of the deployment."""
    agents: list[WorkerProcess] = []

    def start(
        files: dict[str, str] | str | None = None,
        *arguments: str,
        loaded: bool = True,
        environment: dict[str, str] | None = None,
        **deployment: Any,
    ) -> WorkerProcess:
        if files is not None:
            repository.commit({"main.py": files} if isinstance(files, str) else files)
        jobs.deploy(**{"git_url": repository.url, **deployment})
        folder = tmp_path / f"agent-{len(agents)}"
        folder.mkdir()
        variables = {
            "RUNQY_SERVER_URL": front.url,
            "RUNQY_QUEUES": jobs.name,
            "RUNLANE_WORKER_KEY": jobs.worker_key,
            "RUNLANE_STOP_GRACE_SECONDS": "1",
            "RUNQY_BOOTSTRAP_RETRY_DELAY": "50ms",
            "RUNQY_DEPLOYMENT_DIR": str(tmp_path / "deployments"),
            "PATH": os.environ["PATH"],
        }
        command = [sys.executable, "-m", "handler_sdk.agent", *arguments]
        agent = WorkerProcess(command, variables | (environment or {}), folder)
        agents.append(agent)
        if loaded:
            agent.wait_for("is loaded")
        return agent

    yield start
    for agent in agents:
        agent.end(signal.SIGKILL)

"""What a vault holds reaches the task's process, and is seen nowhere else."""

from pathlib import Path

import pytest

from ...gateway import processes
from .conftest import HANDLER, StartAgent
from .repositories import GitServer, Repository
from .server import Queue

SECRET = "vault-5e7c1b8a90"
TOKEN = "token-5e7c1b8a90"


def read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_secrets_are_in_the_environment_of_the_task_alone(
    mode: str, start_agent: StartAgent, jobs: Queue, repository: Repository, tmp_path: Path
) -> None:
    vault = jobs.keep_secrets({"OPENAI_API_KEY": SECRET, "GIT": TOKEN})
    git = GitServer(repository.folder.parent, TOKEN)
    try:
        agent = start_agent(
            HANDLER, "--bootstrap-retries", "0",
            mode=mode, git_url=f"{git.url}/code/.git", git_token=f"vault://{vault}/GIT", vaults=[vault],
        )  # fmt: skip
        begun, go = tmp_path / "begun", tmp_path / "go"
        job = jobs.submit({"touch": str(begun), "wait_for": str(go), "environment": True})
        jobs.wait(job, lambda _: begun.exists())
        family = {agent.process.pid, *processes.descendants(agent.process.pid)}
        holders = [pid for pid in family if SECRET.encode() in read(f"/proc/{pid}/environ")]
        everyone = [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]
        lines = b"".join(read(f"/proc/{pid}/cmdline") for pid in everyone)
        go.touch()
        seen = jobs.wait(job)["output"]
    finally:
        git.close()
    assert seen["OPENAI_API_KEY"] == SECRET
    assert jobs.worker_key not in seen.values()
    assert "RUNLANE_WORKER_KEY" not in seen
    assert len(family) == 5  # the agent, the bridge, a guard for each, and the task
    assert len(holders) == 1
    for secret in (SECRET, TOKEN):
        assert secret.encode() not in lines
        assert secret not in agent.log
        kept = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert not [path for path in kept if secret.encode() in path.read_bytes()]
    assert agent.end() == 0

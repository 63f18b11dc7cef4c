"""`--follow`: new code takes the place of the old without a job lost."""

import signal
from pathlib import Path

from ..conftest import eventually
from .conftest import HANDLER, StartAgent
from .repositories import Repository
from .server import Queue


def only_one_works(jobs: Queue) -> None:
    """Waits until the worker of the old code is gone, which takes jobs until it hears that it is not to."""
    eventually(lambda: len(jobs.workers()) == 1)


FOLLOW = ("--follow", "--follow-interval", "200ms")


def code(number: int) -> dict[str, str]:
    return {"main.py": HANDLER.replace("CODE = 1", f"CODE = {number}")}


def test_new_code_works_while_the_old_ends_with_what_it_has(
    start_agent: StartAgent, jobs: Queue, repository: Repository, tmp_path: Path
) -> None:
    agent = start_agent(code(1), *FOLLOW)
    before = jobs.submit({"touch": str(tmp_path / "begun"), "wait_for": str(tmp_path / "go")})
    eventually((tmp_path / "begun").exists)
    repository.commit(code(2))
    agent.wait_for("is now at")
    assert jobs.run()["code"] == 2
    assert jobs.look(before)["status"] == "IN_PROGRESS"
    (tmp_path / "go").touch()
    found = jobs.wait(before)["output"]
    assert (found["code"], found["attempt"]) == (1, 1)
    only_one_works(jobs)
    assert agent.end() == 0


def test_no_job_is_lost_while_code_changes(start_agent: StartAgent, jobs: Queue, repository: Repository) -> None:
    agent = start_agent(code(1), *FOLLOW)
    submitted = []
    for number in (2, 3):
        repository.commit(code(number))
        submitted += [jobs.submit() for _ in range(20)]
        agent.wait_for("is now at", times=number - 1)
    done = [jobs.wait(job) for job in submitted]
    only_one_works(jobs)
    assert {(found["status"], found["output"]["attempt"]) for found in done} == {("COMPLETED", 1)}
    assert jobs.run()["code"] == 3


def test_code_that_does_not_get_ready_changes_nothing_and_is_told_once(
    start_agent: StartAgent, jobs: Queue, repository: Repository
) -> None:
    agent = start_agent(code(1), *FOLLOW)
    commit = repository.commit({"main.py": "raise SystemExit(3)"})
    agent.wait_for(f"goes on as it is: commit {commit[:12]} did not become ready")
    assert jobs.run()["code"] == 1
    repository.commit({"requirements.txt": "./nowhere.whl"} | code(2))
    agent.wait_for("goes on as it is: pip failed")
    assert jobs.run()["code"] == 1
    (repository.folder / "requirements.txt").unlink()
    repository.commit(code(3))
    agent.wait_for("is now at")
    only_one_works(jobs)
    assert jobs.run()["code"] == 3
    assert agent.log.count("goes on as it is") == 2


def test_a_hangup_looks_at_once_for_code_and_settings(
    start_agent: StartAgent, jobs: Queue, repository: Repository
) -> None:
    agent = start_agent(code(1))
    agent.process.send_signal(signal.SIGHUP)
    agent.wait_for("has nothing new")
    jobs.deploy(git_url=repository.url, vaults=[jobs.keep_secrets({"COLOUR": "green"})])
    agent.process.send_signal(signal.SIGHUP)
    agent.wait_for("is now at")
    only_one_works(jobs)
    assert jobs.run({"environment": True})["COLOUR"] == "green"
    repository.commit(code(2))
    agent.process.send_signal(signal.SIGHUP)
    agent.wait_for("is now at", times=2)
    only_one_works(jobs)
    assert jobs.run()["code"] == 2

"""Code on this machine: fetched, installed, used again, removed."""

import asyncio
import dataclasses
import subprocess
from pathlib import Path

import pytest

from handler_sdk.agent.configuration import Configuration
from handler_sdk.agent.deployment import Deployment, Deployments
from handler_sdk.agent.errors import DeploymentError
from handler_sdk.agent.packages import python_environment

from .packages import PROJECT, WHEEL
from .repositories import Repository
from .server import assignment


@pytest.fixture
def deployments(configuration: Configuration) -> Deployments:
    return Deployments(configuration, "q")


def python(deployment: Deployment, code: str, sees_system: bool = True) -> str:
    """What a task of the deployment would print."""
    command = ["python", "-c", code]
    environment = python_environment(deployment.venv, sees_system)
    done = subprocess.run(command, env=environment, cwd=deployment.folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr


async def test_has_the_newest_commit_of_the_branch(deployments: Deployments, repository: Repository) -> None:
    repository.commit({"main.py": "old"})
    commit = repository.commit({"main.py": "new", "sub/there.txt": ""})
    deployment = await deployments.deploy(assignment(repository.url, code_path="sub", startup_command="a 'b c'"))
    assert deployment.commit == commit
    assert deployment.command == ["a", "b c"]
    assert [each.name for each in deployment.folder.iterdir()] == ["there.txt"]
    assert (deployment.folder.parent / "main.py").read_text() == "new"
    deployment.release()


async def test_that_is_there_is_used_again(deployments: Deployments, repository: Repository) -> None:
    repository.commit({"main.py": ""})
    first, second = await asyncio.gather(*(deployments.deploy(assignment(repository.url)) for _ in range(2)))
    assert (first.folder, first.venv) == (second.folder, second.venv)
    repository.commit({})
    third = await deployments.deploy(assignment(repository.url))
    assert third.folder != first.folder
    for each in (first, second, third):
        each.release()


async def test_of_long_ago_is_removed_unless_it_is_used(deployments: Deployments, repository: Repository) -> None:
    made = []
    for number in range(4):
        repository.commit({"main.py": str(number)})
        made.append(await deployments.deploy(assignment(repository.url)))
        if number != 1:
            made[-1].release()
    assert [each.folder.exists() for each in made] == [False, True, True, True]
    made[1].release()
    repository.commit({"main.py": "again"})
    (await deployments.deploy(assignment(repository.url))).release()
    assert [each.folder.exists() for each in made] == [False, False, False, True]


async def test_that_was_broken_off_is_made_anew(deployments: Deployments, repository: Repository) -> None:
    repository.commit({"requirements.txt": "./nowhere.whl"})
    with pytest.raises(DeploymentError, match=r"pip failed with status 1: .*nowhere"):
        await deployments.deploy(assignment(repository.url))
    with pytest.raises(DeploymentError, match="pip failed"):
        await deployments.deploy(assignment(repository.url))


async def test_installs_its_requirements(
    deployments: Deployments, configuration: Configuration, repository: Repository, tmp_path: Path
) -> None:
    wheel = repository.folder / "wheels" / "whispering-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    names: dict[str, object] = {}
    exec(WHEEL, names)
    names["make"](str(wheel), "whispering", "def whisper(text): return text.lower()")  # type: ignore[operator]
    repository.commit({"needs.txt": "--no-index\n./wheels/whispering-1.0-py3-none-any.whl\n"})
    deployment = await deployments.deploy(assignment(repository.url, requirements="needs.txt"))
    assert python(deployment, "import whispering; print(whispering.whisper('A'))") == "a"
    assert python(deployment, "import handler_sdk, redis, sys; print(sys.prefix)") == str(deployment.venv)
    deployment.release()


async def test_installs_a_project_and_need_not_see_more(configuration: Configuration, repository: Repository) -> None:
    repository.commit(PROJECT)
    deployments = Deployments(dataclasses.replace(configuration, sees_system=False), "q")
    deployment = await deployments.deploy(assignment(repository.url))
    assert python(deployment, "import shouting; print(shouting.shout('a'))", sees_system=False) == "A"
    assert "No module named 'redis'" in python(deployment, "import redis", sees_system=False)
    deployment.release()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"code_path": "../"}, "../ leads out of the repository"),
        ({"code_path": "link"}, "link leads out of the repository"),
        ({"code_path": "missing"}, "the repository has no folder missing"),
        ({"requirements": "../../x"}, "leads out of the repository"),
        ({"startup_command": " "}, "the startup command is empty"),
    ],
)
async def test_stays_inside_of_the_repository(
    fields: dict[str, str], said: str, deployments: Deployments, repository: Repository
) -> None:
    repository.commit({"main.py": ""})
    (repository.folder / "link").symlink_to("/tmp")
    repository.commit({})
    with pytest.raises(DeploymentError, match=said):
        await deployments.deploy(assignment(repository.url, **fields))

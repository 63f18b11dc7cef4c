from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .deployment import Deployment
from .trial import Trial


@pytest.fixture(scope="session")
def shared_deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("deployment"), gateways=4)
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.close()


@pytest.fixture
def deployment(shared_deployment: Deployment) -> Iterator[Deployment]:
    """A deployment that tests share; they may break its lines and restart its gateways, and not touch its store."""
    yield shared_deployment
    for node in shared_deployment.nodes:
        node.reset()


MakeDeployment = Callable[..., Deployment]


@pytest.fixture
def make_deployment(tmp_path: Path) -> Iterator[MakeDeployment]:
    """Makes a deployment of the test alone; the arguments are those of `Deployment`, without the folder."""
    made: list[Deployment] = []

    def make(gateways: int, **more: str) -> Deployment:
        made.append(Deployment(tmp_path, gateways, **more))
        made[-1].start()
        return made[-1]

    yield make
    for deployment in made:
        deployment.close()


MakeTrial = Callable[..., Trial]


@pytest.fixture
async def make_trial(tmp_path: Path, endpoint: str) -> AsyncIterator[MakeTrial]:
    """Makes the test's trials in a deployment; the other arguments are fields of the endpoint."""
    made: list[Trial] = []

    def make(deployment: Deployment, **fields: Any) -> Trial:
        folder = tmp_path / f"trial-{len(made)}"
        folder.mkdir()
        made.append(Trial(deployment, folder, f"{endpoint}-{len(made)}", **fields))
        return made[-1]

    yield make
    for trial in made:
        await trial.close()


@pytest.fixture
def trial(deployment: Deployment, make_trial: MakeTrial) -> Trial:
    """A trial in the shared deployment, of an endpoint with a lease of a second."""
    return make_trial(deployment)

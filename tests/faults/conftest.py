from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..gateway.processes import listens
from ..gateway.waiting import eventually_true
from .deployment import SECONDS_TO_LOAD, Deployment, Node
from .trial import Trial


def start(deployment: Deployment) -> None:
    """Starts its gateways and waits for them."""
    for node in deployment.nodes:
        node.start()
    for node in deployment.nodes:
        wait_for(node)


def wait_for(node: Node) -> None:
    eventually_true(lambda: listens(node.port), SECONDS_TO_LOAD)


@pytest.fixture(scope="session")
def shared_deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("deployment"))
    try:
        start(deployment)
        yield deployment
    finally:
        deployment.close()


@pytest.fixture
def deployment(shared_deployment: Deployment) -> Iterator[Deployment]:
    """A deployment that tests share; they may break its lines and restart its gateways, and not touch its store."""
    yield shared_deployment
    for node in shared_deployment.nodes:
        node.reset()


@pytest.fixture
def own_deployment(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment that belongs to the test alone."""
    deployment = Deployment(tmp_path)
    try:
        start(deployment)
        yield deployment
    finally:
        deployment.close()


MakeTrial = Callable[..., Trial]


@pytest.fixture
async def make_trial(tmp_path: Path, endpoint: str) -> AsyncIterator[MakeTrial]:
    """Makes the test's trial in a deployment; the other arguments are fields of its endpoint."""
    made: list[Trial] = []

    def make(deployment: Deployment, **fields: Any) -> Trial:
        made.append(Trial(deployment, tmp_path, endpoint, **fields))
        return made[-1]

    yield make
    for trial in made:
        await trial.close()


@pytest.fixture
def trial(deployment: Deployment, make_trial: MakeTrial) -> Trial:
    """A trial in the shared deployment, of an endpoint with a lease of a second."""
    return make_trial(deployment)

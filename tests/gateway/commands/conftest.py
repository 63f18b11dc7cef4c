import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main

from ..clients import API_KEY
from ..processes import Gateway
from .documented import Documented
from .invoking import Command


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where logins are kept: nowhere near the user's own. Nothing of the environment says which gateway."""
    for name in os.environ:
        if name.startswith(("RUNLANE_", "RUNQY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RUNLANE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def runlane() -> Command:
    """Runs `runlane` with whatever is given, and with variables of the environment."""

    def call(*arguments: str, input: str | None = None, **variables: str) -> Result:
        return CliRunner().invoke(main, arguments, input=input, env=variables, catch_exceptions=False)

    return call


@pytest.fixture
def at_gateway(runlane: Command, gateway: Gateway) -> Command:
    """The same, against the shared gateway."""

    def call(*arguments: str, url: str = gateway.url, key: str = API_KEY, **given: str) -> Result:
        return runlane(*arguments, RUNLANE_URL=url, RUNLANE_API_KEY=key, **given)

    return call


@pytest.fixture(scope="session")
def documented_server() -> Iterator[Documented]:
    server = Documented()
    yield server
    server.stop()


@pytest.fixture
def documented(documented_server: Documented) -> Documented:
    """A server that answers as a test wants."""
    documented_server.clear()
    return documented_server


@pytest.fixture
def at_documented(runlane: Command, documented: Documented) -> Command:
    """Runs `runlane` against it."""

    def call(*arguments: str, **given: str) -> Result:
        return runlane(*arguments, RUNLANE_URL=documented.url, RUNLANE_API_KEY=documented.KEY, **given)

    return call

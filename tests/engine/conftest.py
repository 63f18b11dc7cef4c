from collections.abc import AsyncIterator

import pytest

from gateway.engine.engine import Engine
from gateway.store import Store

from .driver import Driver, ends


@pytest.fixture
async def driver(store: Store, endpoint: str) -> Driver:
    """An endpoint with the default settings."""
    driver = Driver(store, endpoint)
    await driver.load()
    await driver.configure()
    return driver


@pytest.fixture
async def engine(store: Store) -> AsyncIterator[Engine]:
    engine = Engine(store)
    yield engine
    assert await ends(engine.close())

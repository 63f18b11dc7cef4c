import uuid

import pytest

from gateway.engine.batching import Batcher
from gateway.engine.endpoints import Config, Endpoints
from gateway.engine.ids import mark_of, new_id
from gateway.errors import NotFound
from gateway.store import Store


def test_an_id_looks_like_any_other() -> None:
    ids = [uuid.UUID(new_id("inference")) for _ in range(1000)]
    assert {(id.version, id.variant) for id in ids} == {(4, uuid.RFC_4122)}
    assert len({id.hex[:-8] for id in ids}) == 1000


def test_endpoints_of_one_id_and_two_tenants_are_told_apart() -> None:
    assert mark_of("inference") != mark_of("acme/inference")


async def test_a_job_s_endpoint_is_found_by_its_id(store: Store, endpoint: str) -> None:
    batcher = Batcher(store)
    endpoints, elsewhere = Endpoints(store, batcher), Endpoints(store, batcher)
    try:
        with pytest.raises(NotFound):
            await elsewhere.of_job("default", new_id(endpoint))
        await endpoints.create(endpoint, Config())
        assert await elsewhere.of_job("default", new_id(endpoint)) == endpoint
        assert await elsewhere.of_job("default", f"sync-{new_id(endpoint)}") == endpoint
        for tenant, id in (("acme", new_id(endpoint)), ("default", "x"), ("default", "")):
            with pytest.raises(NotFound):
                await elsewhere.of_job(tenant, id)
    finally:
        await endpoints.delete(endpoint)
        await batcher.close()

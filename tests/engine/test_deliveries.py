"""The log of deliveries, page by page."""

from gateway.engine.deliveries import MOST_LOOKED_AT, Deliveries, DeliveryState
from gateway.engine.engine import Engine

from .driver import Driver


async def test_a_page_looks_at_so_many_and_says_where_to_go_on(driver: Driver, engine: Engine) -> None:
    deliveries = Deliveries(engine.batcher)
    rare = await driver.submit(webhooks="https://rare.example/")
    await driver.call("cancel", rare)
    (claimed,) = (await driver.call("claim_webhooks", 30_000, 1, 1, 1))[1]
    await driver.call("settle_webhook", claimed[0], claimed[4], "failed", 1, "410", 0)
    await driver.pass_time(10)
    for _ in range(MOST_LOOKED_AT):
        await driver.call("cancel", await driver.submit(webhooks="https://usual.example/"))

    first = await deliveries.list(driver.endpoint, 10, None, DeliveryState.FAILED)
    assert (first.deliveries, first.cursor is None) == ([], False)
    second = await deliveries.list(driver.endpoint, 10, first.cursor, DeliveryState.FAILED)
    assert [each.job for each in second.deliveries] == [rare]
    assert second.cursor is None

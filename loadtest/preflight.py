"""One request before the load: whether there is a server, and whether it takes the key."""

import asyncio
from urllib.parse import urlsplit

import msgspec
from yarl import URL

from .endpoint import Endpoint, open_session
from .errors import CONNECTION, REFUSED, Failed, NotUsable, of_status
from .plan import Plan
from .results import Server
from .scenarios import batch

SECONDS = 15.0


class Health(msgspec.Struct):
    """What `/health` answers."""

    workers: dict[str, int]


_health = msgspec.json.Decoder(Health)


def check(plan: Plan, key: str | None) -> Server:
    """What is known of the server then.

    Raises:
        NotUsable: it cannot be tested; its text says what to do.
    """
    return asyncio.run(_check(plan, key))


async def _check(plan: Plan, key: str | None) -> Server:
    async with open_session(key) as session:
        endpoint = Endpoint(session, plan.url)
        try:
            async with asyncio.timeout(SECONDS):
                health = endpoint.decoded(await endpoint.request("GET", URL(f"{plan.url}/health")), _health)
                if plan.operation == "batch":
                    await _check_batch(plan.url, endpoint)
        except Failed as failure:
            raise NotUsable(_advice(failure, plan.url, key)) from None
        except TimeoutError:
            raise NotUsable(f"{plan.url} does not answer within {SECONDS:.0f} s") from None
    return Server(url=plan.url, workers=health.workers)


async def _check_batch(url: str, endpoint: Endpoint) -> None:
    """An empty batch: who knows the route refuses it by a 400."""
    base, queue = batch.split(url)
    try:
        await endpoint.request("POST", URL(base + batch.PATH), msgspec.json.encode({"queue": queue, "jobs": []}))
    except Failed as failure:
        if failure.kind in (of_status(404), of_status(405)):
            raise NotUsable(
                f"{base} has no {batch.PATH} for {queue}, so there is nothing to test: it is a route of runlane's"
            ) from None
        if failure.kind != of_status(400):
            raise


def _advice(failure: Failed, url: str, key: str | None) -> str:
    host = urlsplit(url).netloc
    said = failure.told(key).example
    if failure.kind == of_status(401):
        if key is None:
            return f"{host} wants a key: set RUNLANE_API_KEY (for RunPod, RUNPOD_API_KEY), or use --key-file ({said})"
        return f"{host} refuses the key: check RUNLANE_API_KEY, RUNPOD_API_KEY or --key-file ({said})"
    if failure.kind == of_status(403):
        return f"the key may not do that at {url}: it needs the scopes submit, read and cancel ({said})"
    if failure.kind == of_status(404):
        return f"there is no endpoint at {url}, or none that this key may see: the URL ends in /v2/ENDPOINT ({said})"
    if failure.kind == REFUSED:
        return f"nothing listens at {host}: is the server running, and is that its address?"
    if failure.kind == CONNECTION:
        return f"{host} cannot be reached: {said}"
    return f"{url}/health does not answer as that of an endpoint does: {failure.kind} ({said})"

"""Whether this process serves, and whether it reaches its store; for load balancers, in Runqy's words."""

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import orjson
from redis.exceptions import RedisError

from ..described import described
from ..http import Answer, Call, Managed, Reply
from ..store import OUTAGES, Store
from . import runqy_types as types

SECONDS_FOR_STORE = 2.0


class Health:
    """The operations that take no key."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def operations(self) -> dict[tuple[str, str], Managed]:
        """(path, method), and what is served there."""
        return {("/health", "GET"): Managed(self.alive, None), ("/healthz", "GET"): Managed(self.ready, None)}

    @described(types.Liveness)
    async def alive(self, _: Call) -> Answer:
        """This process answers."""
        return Reply(orjson.dumps({"status": "ok", "timestamp": _now()}))

    @described(types.Readiness, also={503: types.Readiness})
    async def ready(self, _: Call) -> Answer:
        """The store answers too; else 503."""
        try:
            async with asyncio.timeout(SECONDS_FOR_STORE):
                await cast(Any, self._store.commands.ping(**self._store.anywhere))
        except (RedisError, TimeoutError, *OUTAGES):
            return Reply(orjson.dumps({"status": "degraded", "redis": False, "timestamp": _now()}), 503)
        return Reply(orjson.dumps({"status": "ok", "redis": True, "timestamp": _now()}))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

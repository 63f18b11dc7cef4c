"""The handler of runlane's worker."""

from typing import Any

import handler_sdk
from loadtest.bench.rivals import counting, given


async def noop(_job: dict[str, Any]) -> None:
    """The job."""
    counting.one_job()


handler_sdk.start({"handler": noop, "concurrency_modifier": lambda _: given.CONCURRENCY})

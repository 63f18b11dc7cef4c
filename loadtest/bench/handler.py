"""The echo handler."""

from typing import Any

import handler_sdk


async def handler(job: dict[str, Any]) -> Any:
    """Gives the input back."""
    return job["input"]


handler_sdk.start({"handler": handler, "concurrency_modifier": lambda _: 64})

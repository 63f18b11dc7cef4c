"""The handler behind the load tests: it yields the words of `prompt`, and answers OpenAI's requests by events."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import handler_sdk


async def handler(job: dict[str, Any]) -> AsyncIterator[Any]:
    given = job["input"]
    if "openai_route" in given:
        for word in ("one ", "two ", "three"):
            yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': word}}]})}\n\n"
            await asyncio.sleep(0.001)
        yield "data: [DONE]\n\n"
        return
    if given.get("fail"):
        raise ValueError(given["fail"])
    for word in given["prompt"].split():
        yield word
        await asyncio.sleep(0.001)


handler_sdk.start({"handler": handler, "return_aggregate_stream": True, "concurrency_modifier": lambda _: 32})

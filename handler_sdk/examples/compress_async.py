"""How well do the compressors of the standard library do on a text? An async handler that runs several jobs at once.

    runlane dev handler_sdk/examples/compress_async.py
    python handler_sdk/examples/compress_async.py --test_input '{"input": {"text": "to be or not to be"}}'

Input: {"text": the text}. Output: {"bytes", "sha256", "compressed": {name: bytes}, "best": name}. The compressors run
in threads, all three at once, and the worker takes as many jobs at a time as there are cores.
"""

import asyncio
import bz2
import hashlib
import lzma
import os
import zlib
from typing import Any

import handler_sdk

COMPRESSORS = {
    "zlib": lambda data: zlib.compress(data, 9),
    "bz2": lambda data: bz2.compress(data, 9),
    "lzma": lambda data: lzma.compress(data, preset=6),
}


async def handler(job: dict[str, Any]) -> dict[str, Any]:
    text = job["input"].get("text") if isinstance(job["input"], dict) else None
    if not isinstance(text, str):
        return {"error": 'the input must be {"text": "some text"}'}
    data = text.encode()
    results = await asyncio.gather(*(asyncio.to_thread(compress, data) for compress in COMPRESSORS.values()))
    sizes = dict(zip(COMPRESSORS, map(len, results), strict=True))
    return {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "compressed": sizes,
        "best": min(sizes, key=lambda name: (sizes[name], name)),
    }


def concurrency(current: int) -> int:
    return os.cpu_count() or current


if __name__ == "__main__":
    handler_sdk.start({"handler": handler, "concurrency_modifier": concurrency})

"""How many primes are there up to a number? A plain blocking function that reports its progress.

    runlane dev handler_sdk/examples/primes.py
    python handler_sdk/examples/primes.py --test_input '{"input": {"limit": 10000000}}'

Input: {"limit": 2 to 1,000,000,000}. Output: {"limit", "primes": how many, "largest"}. While it runs, the status shows
{"done": fraction}. The sieve works through segments, so that its memory does not grow with the limit.
"""

import math
from typing import Any

import handler_sdk

SEGMENT = 1 << 20


def sieve(size: int) -> bytearray:
    """One byte for each number below `size`: 1 for a prime."""
    flags = bytearray([1]) * size
    flags[:2] = bytes(min(size, 2))
    for number in range(2, math.isqrt(size - 1) + 1):
        if flags[number]:
            flags[number * number :: number] = bytes(len(range(number * number, size, number)))
    return flags


def handler(job: dict[str, Any]) -> dict[str, Any]:
    limit = job["input"].get("limit") if isinstance(job["input"], dict) else None
    if type(limit) is not int or not 2 <= limit <= 1_000_000_000:
        return {"error": 'the input must be {"limit": a whole number from 2 to 1000000000}'}
    factors = [number for number, flag in enumerate(sieve(math.isqrt(limit) + 1)) if flag]
    count, largest = 0, 0
    for low in range(2, limit + 1, SEGMENT):
        high = min(low + SEGMENT, limit + 1)
        flags = bytearray([1]) * (high - low)
        for factor in factors:
            first = max(factor * factor, -(-low // factor) * factor) - low
            if first < high - low:
                flags[first::factor] = bytes(len(range(first, high - low, factor)))
        count += flags.count(1)
        if (last := flags.rfind(1)) >= 0:
            largest = low + last
        handler_sdk.progress_update(job, {"done": round((high - 2) / (limit - 1), 3)})
    return {"limit": limit, "primes": count, "largest": largest}


if __name__ == "__main__":
    handler_sdk.start({"handler": handler})

"""What is remembered of the keys that requests bring."""

import tracemalloc
from typing import Any, cast

from gateway.access.access import Access
from gateway.access.addresses import Addresses
from gateway.access.audit import Audit
from gateway.access.keys import Scope
from gateway.access.limits import Limits
from gateway.engine.batching import Batcher
from gateway.http import Call
from gateway.settings import Settings

HEADER_BYTES = 10_000


def call_with(number: int) -> Call:
    """A request with a good key, and something else where a key may stand as well."""
    headers = [(b"authorization", b"Bearer k"), (b"x-api-key", b"%d" % number * HEADER_BYTES)]
    return Call({"type": "http", "headers": headers, "path_params": {}}, cast(Any, None))


async def test_who_has_a_key_cannot_have_us_remember_more_than_that() -> None:
    nothing, batcher = Addresses(()), cast(Batcher, None)  # a key of the settings needs no store
    limits, audit = Limits({}, batcher, "p"), Audit("off", nothing)
    access = Access(Settings(api_keys=("k",)), batcher, limits, nothing, audit)
    tracemalloc.start()
    try:
        for number in range(200):
            await access.admit(call_with(number), Scope.READ)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 10 * HEADER_BYTES

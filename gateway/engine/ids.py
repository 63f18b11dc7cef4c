"""The ids of jobs. Each says, in its last eight digits, which endpoint it is of: Runqy's clients ask for a job by its
id alone, and an index of all jobs would be a second write, elsewhere, for each.

An id is a UUID of version 4 by its form, with 88 bits of chance in it.
"""

import functools
import hashlib
import os
from collections.abc import Iterator

DIGITS = 8


@functools.lru_cache(maxsize=10_000)
def mark_of(endpoint: str) -> str:
    """How the ids of an endpoint's jobs end. Two endpoints have the same mark by chance, once in 2^32."""
    return hashlib.sha256(endpoint.encode()).hexdigest()[:DIGITS]


def _beginnings() -> Iterator[str]:
    """All of an id but its mark. `str(uuid.uuid4())` takes three times as long as an id, half of it for asking the
    kernel each time."""
    size = 12
    while True:
        digits = os.urandom(size * 256).hex()
        for at in range(0, len(digits), size * 2):
            a, b, c, d = at + 8, at + 12, at + 16, at + 20
            yield f"{digits[at:a]}-{digits[a:b]}-4{digits[b + 1 : c]}-a{digits[c + 1 : d]}-{digits[d : d + 4]}"


_next = _beginnings().__next__


def new_id(endpoint: str) -> str:
    """An id for a job of the endpoint with this name."""
    return _next() + mark_of(endpoint)

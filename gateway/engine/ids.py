"""The ids of jobs. Each says which endpoint it is of: Runqy's clients ask for a job by its id alone, and an index of
all jobs would be a second write, elsewhere, for each.

An id is a UUID of version 4 by its form: `CCCCCCCC-MMMM-4MMM-aMCC-NNNNNNNNNNNN`, where M marks the endpoint, C is
chance, and N is the number that the store gave the job in its queue, so that a job that waits is found there; or chance
as well, for an id that has to be known before the job is in the store.
"""

import functools
import hashlib
import os
from collections.abc import Iterator

_LENGTH = 36


@functools.lru_cache(maxsize=10_000)
def mark_of(endpoint: str) -> str:
    """By what the ids of an endpoint's jobs are known. Two endpoints have the same mark by chance, once in 2^32."""
    return hashlib.sha256(endpoint.encode()).hexdigest()[:8]


def mark_in(job: str) -> str:
    """The mark of the endpoint in an id, whatever stands before it; of what is no id, anything."""
    id = job[-_LENGTH:]
    return id[9:13] + id[15:18] + id[20:21]


def _digits() -> Iterator[str]:
    """Chance, 22 digits each time. `str(uuid.uuid4())` takes three times as long as an id, half of it for asking the
    kernel each time."""
    while True:
        digits = os.urandom(11 * 256).hex()
        yield from (digits[at : at + 22] for at in range(0, len(digits), 22))


_next = _digits().__next__


def beginning_of_id(endpoint: str) -> str:
    """How an id of a job of the endpoint with this name begins; `numbered` is the whole."""
    return _beginning(endpoint, _next())


def numbered(beginning: str, number: int) -> str:
    """The id that begins so, of the job with this number; the store's functions make the same."""
    return f"{beginning}{number:012x}"


def new_id(endpoint: str) -> str:
    """An id for a job of the endpoint with this name."""
    digits = _next()
    return _beginning(endpoint, digits) + digits[10:]


def _beginning(endpoint: str, digits: str) -> str:
    return f"{digits[:8]}{_middle(endpoint)}{digits[8:10]}-"


@functools.lru_cache(maxsize=10_000)
def _middle(endpoint: str) -> str:
    mark = mark_of(endpoint)
    return f"-{mark[:4]}-4{mark[4:7]}-a{mark[7]}"

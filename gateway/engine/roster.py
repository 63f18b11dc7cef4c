"""What is known of workers, and how it stands in the replies of the store's functions."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

MOST_GPUS = 64


class Gpu(msgspec.Struct, frozen=True):
    """`index`: by which NVIDIA's library knows it on its machine. None: the GPU does not tell."""

    index: int
    name: str
    utilization_percent: float | None = None
    memory_used_mb: int = 0
    memory_total_mb: int = 0
    temperature_c: int | None = None


class Metrics(msgspec.Struct, frozen=True):
    """How busy a worker's machine is, or its container, where that has limits. `collected_at`: in s since the epoch, by
    the store's clock."""

    cpu_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    gpus: Annotated[list[Gpu], Meta(max_length=MOST_GPUS)] = []
    collected_at: int = 0


class Worker(msgspec.Struct, frozen=True):
    """A worker. `state`: what it is seen to do, as in `Workers`; or "stopped" when it has left, and "lost" when it gave
    no sign of life; `seen`: when it last did, in ms since the epoch, and `silent`: for so many ms it did not; `link`:
    "http" when it comes through a gateway; `trouble`: why it is unhealthy, if it said so; `description`: JSON, what it
    says of itself; `came`: since when it is one, in ms since the epoch; `named`: the ids of some of its jobs, of which
    it has `jobs`; `queues`: the engine's names of those whose jobs alone it takes, none for all."""

    id: str
    state: str
    jobs: int
    seen: int | None
    silent: int | None
    concurrency: int | None
    link: str | None
    trouble: str | None
    description: bytes | None
    came: int | None
    metrics: Metrics | None
    named: list[str]
    queues: list[str]


def read_worker(row: list[Any]) -> Worker:
    """A worker, as the functions `workers` and `worker` give it."""
    id, state, jobs, seen, silent, concurrency, link, trouble, description, came, told, measured, named, queues = row
    return Worker(
        id.decode(),
        state.decode(),
        jobs,
        seen,
        silent,
        int(concurrency) if concurrency else None,
        link.decode() if link else None,
        trouble.decode(errors="replace") if trouble else None,
        description,
        came,
        _metrics(told, measured),
        [job.decode() for job in named],
        queues.decode().split(),
    )


def _metrics(told: bytes | None, at: int | None) -> Metrics | None:
    """What a worker has told, `at` ms since the epoch; None when it told nothing, or what makes no sense."""
    if told is None or at is None:
        return None
    try:
        found = msgspec.json.decode(told, type=Metrics)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return msgspec.structs.replace(found, collected_at=at // 1000)

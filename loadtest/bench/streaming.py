"""Streams of server-sent events, against the same events sent directly by Starlette's `StreamingResponse`."""

import asyncio
import contextlib
import statistics
from collections.abc import Iterator
from pathlib import Path

import uvloop

from . import sse
from .environment import Deployment, deployment, server
from .measurement import Figures, Measurement, Relation, Round, Row, Tree

HANDLER = Path(__file__).with_name("stream_handler.py")
CHUNKS = 10_000
FIRST_CHUNKS = 30
STREAMS, PER_SECOND, SECONDS = 500, 20, 30
DELAY_MS = 50.0


@contextlib.contextmanager
def _beside(tree: Tree) -> Iterator[tuple[Deployment, str]]:
    """A deployment whose worker yields what it is asked for, and a server that sends the same itself."""
    with server("loadtest.bench.direct_stream") as direct, deployment(tree) as deployed, deployed.worker(HANDLER):
        yield deployed, direct


@contextlib.contextmanager
def _long(tree: Tree) -> Iterator[Round]:
    with _beside(tree) as (deployed, direct):

        def once() -> dict[str, Figures]:
            ours = uvloop.run(sse.through_job(deployed, CHUNKS))
            theirs = uvloop.run(sse.directly(direct, CHUNKS))
            return {"stream": Figures(CHUNKS / ours.seconds, CHUNKS / theirs.seconds)}

        yield once


@contextlib.contextmanager
def _first(tree: Tree) -> Iterator[Round]:
    with _beside(tree) as (deployed, direct):

        async def both() -> Figures:
            ours = [(await sse.through_job(deployed, 1)).first for _ in range(FIRST_CHUNKS)]
            theirs = [(await sse.directly(direct, 1)).first for _ in range(FIRST_CHUNKS)]
            return Figures(statistics.median(ours) * 1000, statistics.median(theirs) * 1000)

        yield lambda: {"first-chunk": uvloop.run(both())}


@contextlib.contextmanager
def _paced(tree: Tree) -> Iterator[Round]:
    with _beside(tree) as (deployed, _):

        async def beginning_after(seconds: float) -> list[float]:
            await asyncio.sleep(seconds)
            return (await sse.through_job(deployed, PER_SECOND * SECONDS, 1 / PER_SECOND)).delays

        async def all_of_them() -> list[float]:
            # They begin one after the other within a second, as clients that know nothing of each other: not all of
            # them have a chunk at the same moment, 20 times a second.
            found = await asyncio.gather(*(beginning_after(number / STREAMS) for number in range(STREAMS)))
            return [delay for delays in found for delay in delays]

        def once() -> dict[str, Figures]:
            delays = sorted(uvloop.run(all_of_them()))
            return {"paced": Figures(delays[len(delays) * 99 // 100] * 1000, DELAY_MS)}

        yield once


MEASUREMENTS = [
    Measurement(
        "stream",
        {"stream": Row(f"one stream of {CHUNKS:,} chunks", "StreamingResponse", "chunks/s", least=0.5)},
        _long,
        rounds=10,
    ),
    Measurement(
        "first-chunk",
        {"first-chunk": Row("first chunk through a queued job, median", "StreamingResponse", "ms", most=3.0,
                            relation=Relation.ADDED)},
        _first,
    ),
    Measurement(
        "paced",
        {"paced": Row(f"{STREAMS} streams of {PER_SECOND}/s, {SECONDS} s: p99 of the delay", "as told", "ms", most=1)},
        _paced,
        rounds=1,
    ),
]  # fmt: skip

"""Streams of an OpenAI server behind a handler, against the same asked of it directly."""

import contextlib
import statistics
from collections.abc import Iterator

from . import openai_streams
from .environment import KEY, deployment, server
from .measurement import Figures, Measurement, Relation, Round, Row, Tree
from .openai_streams import Origin

TOKENS_OF_STREAMS = {1: 20_000, 100: 1_000}
FIRST_BYTES, TOKENS_FOR_FIRST_BYTE = 30, 20
DIRECT = "direct"


@contextlib.contextmanager
def _relayed(tree: Tree) -> Iterator[Round]:
    proxy = tree / "handler_sdk/examples/openai_proxy.py"
    with server("loadtest.bench.openai_streams") as upstream, deployment(tree) as deployed:
        direct, ours = Origin(upstream, KEY), Origin(deployed.at("/openai"), KEY)
        with deployed.worker(proxy, UPSTREAM_URL=upstream, UPSTREAM_CONCURRENCY="100"):

            def once() -> dict[str, Figures]:
                found = {
                    f"openai-{streams}": Figures(
                        openai_streams.tokens_per_second(ours, streams, tokens),
                        openai_streams.tokens_per_second(direct, streams, tokens),
                    )
                    for streams, tokens in TOKENS_OF_STREAMS.items()
                }
                first = openai_streams.first_bytes([ours, direct], FIRST_BYTES, TOKENS_FOR_FIRST_BYTE)
                return {**found, "openai-first": Figures(*(statistics.median(times) * 1000 for times in first))}

            yield once


MEASUREMENTS = [
    Measurement(
        "openai",
        {
            **{
                f"openai-{streams}": Row(f"OpenAI streams, {streams} at once", DIRECT, "tokens/s", least=0.6)
                for streams in TOKENS_OF_STREAMS
            },
            "openai-first": Row("OpenAI stream, first byte, median", DIRECT, "ms", most=5.0, relation=Relation.ADDED),
        },
        _relayed,
        rounds=5,
    )
]

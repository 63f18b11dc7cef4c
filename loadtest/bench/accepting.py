"""How many requests one gateway process answers, against an echo of the same body under the same server.

The server has a processor for itself; the store and the load have the others. Else the scheduler's choice of who shares
one with whom is what is measured.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .environment import JOB, Deployment, deployment, processors, server, started_on
from .measurement import Figures, Measurement, Round, Row, Tree
from .wrk import Requests, wrk

ECHO_HANDLER = Path(__file__).with_name("handler.py")
REQUESTS = "requests/s"


@contextlib.contextmanager
def _apart(tree: Tree) -> Iterator[tuple[Deployment, str]]:
    """A gateway and an echo."""
    servers, others = processors()
    with (
        started_on(servers),
        server("loadtest.bench.echo") as echo,
        started_on(others),
        deployment(tree, servers) as deployed,
    ):
        yield deployed, echo


def _beside(echo: str, ours: Requests) -> Figures:
    theirs = wrk(Requests(echo, JOB, ours.connections))
    return Figures(wrk(ours).per_second, theirs.per_second)


@contextlib.contextmanager
def _run(tree: Tree) -> Iterator[Round]:
    with _apart(tree) as (deployed, echo):

        def once() -> dict[str, Figures]:
            found = _beside(echo, Requests(deployed.at("/run"), JOB))
            deployed.purge()
            return {"run": found}

        yield once


@contextlib.contextmanager
def _status(tree: Tree) -> Iterator[Round]:
    with _apart(tree) as (deployed, echo):
        finished = Requests(deployed.at(f"/status/{deployed.finished_job()}"))
        yield lambda: {"status": _beside(echo, finished)}


@contextlib.contextmanager
def _runsync(tree: Tree) -> Iterator[Round]:
    """Nothing has a processor for itself: the worker and the store need as much as the gateway."""
    with server("loadtest.bench.echo") as echo, deployment(tree) as deployed, deployed.worker(ECHO_HANDLER):
        yield lambda: {"runsync": _beside(echo, Requests(deployed.at("/runsync"), JOB))}
        deployed.check_completed()


@contextlib.contextmanager
def _limits(tree: Tree) -> Iterator[Round]:
    servers, others = processors()
    with (
        started_on(others),
        deployment(tree, servers) as counted,
        deployment(tree, servers, RUNLANE_RATE_LIMITS="off") as uncounted,
    ):
        turn = [counted, uncounted]

        def once() -> dict[str, Figures]:
            found = {deployed: wrk(Requests(deployed.at("/run"), JOB)).per_second for deployed in turn}
            turn.reverse()
            for deployed in turn:
                deployed.purge()
            return {"limits": Figures(found[counted], found[uncounted])}

        yield once


MEASUREMENTS = [
    Measurement("run", {"run": Row("/run, 64 connections", "echo", REQUESTS, least=0.65)}, _run),
    Measurement("status", {"status": Row("/status of a finished job", "echo", REQUESTS, least=0.65)}, _status),
    Measurement("runsync", {"runsync": Row("/runsync, 64 connections", "echo", REQUESTS, least=0.25)}, _runsync),
    Measurement("limits", {"limits": Row("/run, counted", "uncounted", REQUESTS, least=0.9)}, _limits),
]

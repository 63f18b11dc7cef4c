"""How soon one client has its answer."""

import contextlib
from collections.abc import Iterator

from . import roundtrip
from .accepting import ECHO_HANDLER
from .environment import JOB, deployment, store
from .measurement import Figures, Measurement, Round, Row, Tree
from .wrk import Requests, wrk

ROUND_TRIPS = 1000


@contextlib.contextmanager
def _runsync(tree: Tree) -> Iterator[Round]:
    with deployment(tree) as deployed, deployed.worker(ECHO_HANDLER), store() as bare:

        def once() -> dict[str, Figures]:
            ours = wrk(Requests(deployed.at("/runsync"), JOB, connections=1)).median
            return {"runsync-one": Figures(ours * 1000, roundtrip.measure(bare.url, ROUND_TRIPS) * 1000)}

        yield once
        deployed.check_completed()


MEASUREMENTS = [
    Measurement(
        "runsync-one",
        {"runsync-one": Row("/runsync, one client, median", "through the store alone", "ms", most=1.5)},
        _runsync,
    )
]

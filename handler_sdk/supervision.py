"""How a worker supervises the process that runs its handler."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Supervision:
    """What becomes of a process that ended unasked: another one takes its place.

    first_pause, longest_pause: between two tries, in seconds; each is about twice as long as the one before.
    crash_loop: so many in a row, without a job done between, count as one.
    healthy_seconds: who was ready for so long begins anew.
    at_once: there is no pause until there is a crash loop.
    gives_up: the worker ends when the first process does not load.
    counts_drained: what still runs when a drain is over was a try of its job.
    """

    first_pause: float = 0.5
    longest_pause: float = 30.0
    crash_loop: int = 3
    healthy_seconds: float = 600.0
    at_once: bool = True
    gives_up: bool = True
    counts_drained: bool = True


OF_HANDLERS = Supervision()

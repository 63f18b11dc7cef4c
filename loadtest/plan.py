"""What a load test is to do."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

Arrivals = Literal["constant", "poisson", "burst"]

WEIGHTS = {"run": 6.0, "runsync": 2.0, "stream": 1.0, "status": 4.0, "cancel": 1.0}
"""Of the operations in a mixture, unless others are given."""


class Phase(NamedTuple):
    """A rate of operations per second, for so many seconds."""

    rate: float
    seconds: float


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters, as they stand in the results. Times are in seconds.

    Args:
        url: of the endpoint: `…/v2/<endpoint_id>`.
        rate: operations per second of an open loop; None for a closed one.
        connections: clients of a closed loop; of an open one, so many at most do something at once; None: no bound.
        period: between bursts.
        ramp: the rates, one after the other, each for `step`; () for none.
        knee_p99: the bound for a ramp's p99; None: a multiple of its first step's.
        most_open: so many operations may be unfinished, in all processes together.
        timeout: for an operation, from when it would be sent if there were a connection for it.
        follow: whether jobs are followed until they are final.
        weights: of the operations in a mixture.
        jobs: in a batch.
    """

    url: str
    scenario: str
    rate: float | None = None
    connections: int | None = None
    arrivals: Arrivals = "constant"
    period: float = 1.0
    duration: float = 30.0
    warm_up: float = 0.0
    ramp: tuple[float, ...] = ()
    step: float = 10.0
    knee_p99: float | None = None
    processes: int = 1
    most_open: int = 5000
    timeout: float = 60.0
    follow: bool = True
    weights: Mapping[str, float] = {}
    jobs: int = 1
    seed: int = 0

    @property
    def phases(self) -> list[Phase]:
        """The rates of an open loop, from the begin of the warm-up on."""
        if self.ramp:
            return [Phase(self.ramp[0], self.warm_up), *(Phase(rate, self.step) for rate in self.ramp)]
        return [Phase(self.rate or 0, self.warm_up + self.duration)]

    @property
    def is_closed(self) -> bool:
        """Whether each client waits for its answer before it sends again."""
        return self.rate is None and not self.ramp

    @property
    def measured(self) -> float:
        """How long operations are sent that count."""
        return self.step * len(self.ramp) if self.ramp else self.duration

    @property
    def end(self) -> float:
        """When the last operation is sent, from the begin on."""
        return self.warm_up + self.measured

    @property
    def highest_rate(self) -> float:
        """The highest rate of an open loop; 0 for a closed one."""
        return max(phase.rate for phase in self.phases)

    @property
    def operation(self) -> str:
        """What the scenario does: `burst` and `soak` are mixtures."""
        return "mixed" if self.weights else self.scenario


class Assignment(msgspec.Struct, frozen=True):
    """What one of the processes has to do. `inputs`: those of the jobs, in turn; `index`: which process it is."""

    plan: Plan
    inputs: list[msgspec.Raw]
    key: str | None
    index: int


class Begin(msgspec.Struct, frozen=True, tag=True):
    """To a process: begin at this time of the monotonic clock, which all processes share."""

    at: float


class Stop(msgspec.Struct, frozen=True, tag=True):
    """To a process: send nothing more, and wait no longer."""


Order = Begin | Stop

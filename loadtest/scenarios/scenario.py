"""What all scenarios have in common."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec

from ..endpoint import Endpoint
from ..plan import Assignment
from ..recorder import Trial


class Scenario(ABC):
    """Performs operations at an endpoint, with the inputs of the assignment in turn."""

    def __init__(self, endpoint: Endpoint, assignment: Assignment) -> None:
        self.endpoint = endpoint
        self.plan = assignment.plan
        self._bodies = itertools.cycle(self.bodies(assignment.inputs))

    def bodies(self, inputs: Sequence[msgspec.Raw]) -> list[bytes]:
        """The requests to send in turn. `inputs`: at least one."""
        return [b'{"input":%b}' % bytes(input) for input in inputs]

    def next_body(self) -> bytes:
        """The next request."""
        return next(self._bodies)

    async def prepare(self) -> None:  # noqa: B027  (most have nothing to prepare)
        """Is called once, before the load begins.

        Raises:
            Failed: the server refuses.
        """

    @abstractmethod
    async def perform(self, trial: Trial) -> None:
        """One operation, from its first request to its end.

        Raises:
            Failed: it failed.
        """

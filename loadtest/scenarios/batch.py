"""POST /queue/add-batch: many jobs in a request, as Runqy's clients add them. RunPod has nothing like it."""

import itertools
from collections.abc import Sequence

import msgspec
from yarl import URL

from ..endpoint import Endpoint
from ..errors import INVALID, Failed, NotUsable
from ..plan import Assignment
from ..recorder import Trial
from .scenario import Scenario

PATH = "/queue/add-batch"


class Added(msgspec.Struct):
    """The answer: how many jobs are in the queue, and what is wrong with the others."""

    enqueued: int
    failed: int
    errors: list[str] = []


_added = msgspec.json.Decoder(Added)


class Batch(Scenario):
    """Adds jobs; the latency ends with the answer. They are not followed."""

    def __init__(self, endpoint: Endpoint, assignment: Assignment) -> None:
        base, self._queue = split(assignment.plan.url)
        self._url = URL(f"{base}{PATH}")
        super().__init__(endpoint, assignment)

    def bodies(self, inputs: Sequence[msgspec.Raw]) -> list[bytes]:
        """As many requests as there are inputs, each with so many jobs; each input is in turn the first."""
        data = itertools.cycle({"data": input} for input in inputs)
        size = self.plan.jobs
        return [msgspec.json.encode({"queue": self._queue, "jobs": list(itertools.islice(data, size))}) for _ in inputs]

    async def perform(self, trial: Trial) -> None:
        content = await self.endpoint.request("POST", self._url, self.next_body())
        added = self.endpoint.decoded(content, _added)
        trial.recorder.count("jobs", added.enqueued)
        if added.failed:
            raise Failed(INVALID, f"{added.failed} jobs were not added: {'; '.join(added.errors)}")
        trial.answered()


def split(url: str) -> tuple[str, str]:
    """The gateway's URL and the endpoint's id, which is the queue's name.

    Raises:
        NotUsable: the endpoint's URL is not made of them.
    """
    base, separator, id = url.rpartition("/v2/")
    if not separator or not id:
        raise NotUsable(f"{url} is no https://GATEWAY/v2/ENDPOINT, by which the queue's name would be known")
    return base, id

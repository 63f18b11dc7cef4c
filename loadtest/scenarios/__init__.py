"""What the operations of a load test are: one module for each."""

from .batch import Batch
from .mixed import Mixed
from .openai import OpenAI
from .run import Run
from .runsync import RunSync
from .scenario import Scenario
from .stream import Stream

OPERATIONS: dict[str, type[Scenario]] = {
    "run": Run,
    "runsync": RunSync,
    "stream": Stream,
    "openai": OpenAI,
    "batch": Batch,
    "mixed": Mixed,
}
"""By `Plan.operation`."""

__all__ = ["OPERATIONS", "Scenario"]

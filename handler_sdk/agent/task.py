"""A deployed task as the bridge is to run it; it travels from the agent on the bridge's standard input."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from ..entry import PROCESS_VARIABLE, TASK_VARIABLE
from ..task import CONCURRENCY_VARIABLE
from .packages import python_environment


@dataclass(frozen=True)
class Task:
    """folder: the command's working directory. vaults: secret variables of its environment. queue: of its jobs. stays:
    one process serves all jobs; else each job has its own. Times in seconds."""

    queue: str
    command: list[str]
    folder: str
    venv: str
    stays: bool = True
    startup_seconds: float = 60.0
    stop_seconds: float = 5.0
    concurrency: int = 1
    sees_system: bool = True
    vaults: Mapping[str, str] = field(default_factory=dict, repr=False)

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Task":
        return cls(**json.loads(data))

    def environment(self) -> dict[str, str]:
        """Of the task's processes."""
        environment = python_environment(self.venv, self.sees_system)
        environment.pop(PROCESS_VARIABLE, None)
        own = {TASK_VARIABLE: "1", CONCURRENCY_VARIABLE: str(self.concurrency), "PYTHONUNBUFFERED": "1"}
        return {**environment, **self.vaults, **own}

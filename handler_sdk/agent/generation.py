"""One deployment of a queue's code, and the worker that has its task run."""

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from ..links.choice import join
from ..process import NoProgramError, Program
from ..settings import Settings
from ..supervision import Supervision
from ..worker import Worker
from .assignment import Assignment
from .configuration import Configuration
from .deployment import Deployment
from .errors import AgentError
from .task import Task

logger = logging.getLogger("runlane.agent")

Deploy = Callable[[], Awaitable[Deployment]]


class Generation:
    """deployment: None until it is there."""

    def __init__(
        self, assignment: Assignment, deploy: Deploy, configuration: Configuration, worker: str, gives_up: bool
    ) -> None:
        """`worker`: its id. `gives_up`: it ends when its task does not become ready the first time."""
        self.assignment = assignment
        self.deployment: Deployment | None = None
        self._deploy = deploy
        self._configuration = configuration
        settings = Settings(
            url=configuration.server,
            endpoint=assignment.endpoint,
            key=configuration.key,
            worker=worker,
            link=configuration.link,
            drain_seconds=configuration.shutdown_seconds,
            stop_grace_seconds=configuration.stop_grace_seconds,
            ships_logs=configuration.ships_logs,
            queues=assignment.queues,
        )
        # As Runqy's worker pauses: 1 s, twice as long each time, up to 5 min; its circuit opens after five in a row.
        supervision = Supervision(
            first_pause=1.0, longest_pause=300.0, crash_loop=5, at_once=False, gives_up=gives_up, counts_drained=False
        )
        self.worker = Worker(settings, partial(join, settings), self._prepare, supervision)

    async def run(self) -> int:
        """See `Worker.run`."""
        try:
            return await self.worker.run()
        finally:
            if self.deployment is not None:
                self.deployment.release()

    async def _prepare(self) -> Program:
        try:
            deployment = self.deployment = await self._deploy()
        except AgentError as error:
            raise NoProgramError(str(error)) from None
        assignment, configuration = self.assignment, self._configuration
        stays = assignment.mode == "long_running"
        if not stays and configuration.concurrency > 1:
            logger.warning("a one_shot task runs one job at a time")
        task = Task(
            queue=assignment.queue,
            command=deployment.command,
            folder=str(deployment.folder),
            venv=str(deployment.venv),
            stays=stays,
            startup_seconds=assignment.startup_seconds,
            # The worker ends by force what has not ended then.
            stop_seconds=configuration.stop_grace_seconds * 0.8,
            concurrency=configuration.concurrency if stays else 1,
            sees_system=configuration.sees_system,
            vaults=assignment.vaults,
        )
        name = f"task {assignment.queue} at {deployment.commit[:12]}"
        return Program(name, ("-m", "handler_sdk.agent.bridge"), task.encode())

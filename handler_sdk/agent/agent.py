"""An agent at work for one queue.

When the branch has moved, another worker is made for the new code beside the one that works; once its task is ready,
the older one takes no more jobs and ends with those that it has. Should the new one not become ready, it goes, and all
stays as it was.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from .assignment import Assignment, register
from .configuration import Configuration
from .deployment import Deployment, Deployments
from .errors import AgentError, DeploymentError, NoServerError
from .generation import Deploy, Generation

logger = logging.getLogger("runlane.agent")

T = TypeVar("T")

# What a number adds to a worker's id, which has up to 63 characters.
ROOM_FOR_NUMBER = 8


class Agent:
    """See the module."""

    _current: Generation  # once the server has said what to do
    _working: asyncio.Task[int]

    def __init__(self, configuration: Configuration, queue: str) -> None:
        self._configuration = configuration
        self._queue = queue
        self._worker = configuration.worker or secrets.token_hex(8)
        self._deployments = Deployments(configuration, queue)
        self._generations: dict[asyncio.Task[int], Generation] = {}
        self._count = 0
        self._following: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()
        self._refused_commit = ""
        self._complaint = ""

    async def run(self) -> int:
        """Works until `end` or a failure ends it; returns the exit status."""
        self._working = asyncio.create_task(self._work())
        try:
            return await self._working
        except asyncio.CancelledError:
            return 0
        except AgentError as error:
            logger.error(str(error))  # noqa: TRY400
            return 1

    def end(self) -> None:
        """Takes no more jobs, and ends when those in hand have, or after the time that they have for it."""
        if self._following is None:
            self._working.cancel()
        else:
            self._following.cancel()
        for generation in self._generations.values():
            generation.worker.end()

    def hurry(self) -> None:
        """Ends at once."""
        self.end()
        for generation in self._generations.values():
            generation.worker.hurry()

    def look(self) -> None:
        """Looks for new code and settings now."""
        self._asked.set()

    async def _work(self) -> int:
        assignment = await self._insist(self._register)
        _, self._current = self._begin(
            assignment, lambda: self._insist(lambda: self._deploy(assignment)), is_first=True
        )
        self._following = asyncio.create_task(self._follow())
        status = await self._until_over()
        self._following.cancel()
        return status

    async def _until_over(self) -> int:
        """Waits for the end of the generation that works; the others end then, too."""
        status = None
        while self._generations:
            done, _ = await asyncio.wait(self._generations, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if self._generations.pop(task) is self._current:
                    status = task.result()
                    self.end()
        return status or 0

    async def _register(self) -> Assignment:
        return await register(self._configuration, self._queue, self._worker)

    async def _deploy(self, assignment: Assignment) -> Deployment:
        return await self._deployments.deploy(assignment)

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Tries again what may come right by itself, as often as the configuration says."""
        left = self._configuration.retries
        while True:
            try:
                return await work()
            except (NoServerError, DeploymentError) as error:
                if not left:
                    raise
                logger.warning("%s; trying again %d times, in %g s", error, left, self._configuration.retry_seconds)
                left -= 1
                await asyncio.sleep(self._configuration.retry_seconds)

    def _begin(self, assignment: Assignment, deploy: Deploy, is_first: bool) -> tuple[asyncio.Task[int], Generation]:
        worker = self._worker
        if not is_first:
            self._count += 1
            worker = f"{worker[: 63 - ROOM_FOR_NUMBER]}.{self._count}"
        generation = Generation(assignment, deploy, self._configuration, worker, gives_up=not is_first)
        task = asyncio.create_task(generation.run())
        self._generations[task] = generation
        return task, generation

    # -- following ----------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        pause = self._configuration.follow_seconds if self._configuration.follows else None
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), pause)
            is_asked = self._asked.is_set()
            self._asked.clear()
            try:
                await self._look(is_asked)
                self._complaint = ""
            except AgentError as error:
                if is_asked or str(error) != self._complaint:
                    logger.error("queue %s goes on as it is: %s", self._queue, error)  # noqa: TRY400
                self._complaint = str(error)

    async def _look(self, is_asked: bool) -> None:
        """Deploys when there is something new. Asked for, the server's settings count as well, and a commit that failed
        is tried again."""
        current = self._current
        if current.deployment is None:
            return
        assignment = await self._register() if is_asked else current.assignment
        commit = (await self._deployments.repository(assignment).newest()).commit
        if is_asked:
            self._refused_commit = ""
        if commit == self._refused_commit:
            return
        if commit == current.deployment.commit and assignment == current.assignment:
            if is_asked:
                logger.info("queue %s has nothing new", self._queue)
            return
        try:
            await self._replace(assignment if is_asked else await self._register())
        except DeploymentError:
            self._refused_commit = commit
            raise

    async def _replace(self, assignment: Assignment) -> None:
        deployment = await self._deploy(assignment)

        async def deployed() -> Deployment:
            return deployment

        task, generation = self._begin(assignment, deployed, is_first=False)
        loaded = asyncio.create_task(generation.worker.loaded.wait())
        await asyncio.wait({task, loaded}, return_when=asyncio.FIRST_COMPLETED)
        loaded.cancel()
        if not generation.worker.loaded.is_set():
            raise DeploymentError(f"commit {deployment.commit[:12]} did not become ready")
        before, self._current = self._current, generation
        logger.info("queue %s is now at %s; what runs of the one before ends", self._queue, deployment.commit[:12])
        before.worker.end(lets_all_end=True)

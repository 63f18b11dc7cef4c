"""Takes jobs over the link, has the handler run them and delivers what comes of them: in the handler's process.

The worker's own process is told what has begun and what has ended, so that it can renew, stop by force and give up; no
job waits for that.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import Any

from .channel import Channel
from .encoding import to_json
from .ending import begin_task, end_after_fault
from .frames import Kind, decode_attempt, decode_registered, encode_attempt
from .home import Home
from .job import Job
from .links import Attempt, Backoff, Link, LinkError, Registered, Report, TakenJob, UnreachableError
from .links.choice import make_link
from .outcomes import Outcome, failed
from .work import AnyJob, Work

logger = logging.getLogger("runlane.taker")

# The worker's own process tries within this time.
REGISTER_SECONDS = 15.0

# Trouble of this process alone is told this often.
WARN_SECONDS = 60.0

# Stops that are remembered for jobs that have not begun, or are over.
EARLY_STOPS = 100

# An outage keeps a process that has nothing to do from ending for so long.
GIVE_BACK_SECONDS = 3.0


class Taker:
    """One handler's process at work, from the moment its file is loaded."""

    _link: Link  # from the first registration on

    def __init__(self, work: Work, channel: Channel) -> None:
        self._work = work
        self._channel = channel
        self._home = Home()
        self._host = work.host(self._home, self._on_end, self._on_concurrency)
        self._jobs: dict[Attempt, AnyJob] = {}
        self._concurrency = 1
        self._running = 0
        self._registered: Registered | None = None
        self._answer: asyncio.Future[Registered] | None = None
        self._warned_at = -WARN_SECONDS
        self._early_stops: deque[Attempt] = deque(maxlen=EARLY_STOPS)
        self._delivering: dict[Attempt, asyncio.Task[None]] = {}
        self._draining = False
        self._gave_back = False
        self._free = asyncio.Event()
        self._exit = asyncio.Event()
        self._is_telling = False
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self) -> None:
        """Serves until the worker says that it is enough. Its main thread may run jobs."""
        self._host.serve(self._serve())

    def report_progress(self, job: Mapping[str, Any], progress: Any) -> None:
        """See `progress_update`."""
        if self._registered is None:
            return  # nothing runs yet
        value = to_json(progress)
        limit = self._link.limits.chunk
        if len(value) > limit:
            raise ValueError(f"the progress has {len(value)} bytes; the limit is {limit} bytes")
        self._home.call(self._set_progress, job["id"], value)

    async def _serve(self) -> None:
        self._home.enter()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel, self._read)
        self._channel.send(Kind.READY)
        await self._exit.wait()
        loop.remove_reader(self._channel)
        for task in self._tasks:
            task.cancel()
        if self._registered is not None:
            await self._link.close()

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return begin_task(work, self._tasks)

    # -- what the worker says -----------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            for kind, payload in self._channel.read():
                self._on_frame(kind, payload)
        except Exception:
            end_after_fault()

    def _on_frame(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.REGISTERED:
            self._on_registered(decode_registered(payload))
        elif kind is Kind.STOP:
            self._on_stop(decode_attempt(payload)[0])
        elif kind is Kind.DRAIN:
            self._drain()
        elif kind is Kind.EXIT:
            self._exit.set()

    def _on_registered(self, registered: Registered) -> None:
        before, self._registered = self._registered, registered
        if before is None:
            self._link = make_link(registered, self._register)
            self._begin_task(self._take_jobs())
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(registered)
        elif registered.serial > before.serial:
            self._begin_task(self._open())

    async def _register(self, before: Registered) -> Registered:
        """See `Register`. The worker's own process tries as well, and registers again when it is refused."""
        self._answer = asyncio.get_running_loop().create_future()
        self._channel.send(Kind.REGISTER)
        try:
            async with asyncio.timeout(REGISTER_SECONDS):
                registered = await self._answer
        except TimeoutError:
            raise UnreachableError(f"the worker cannot reach {before.other_end} either") from None
        finally:
            self._answer = None
        if registered.serial == before.serial:
            if time.monotonic() - self._warned_at > WARN_SECONDS:
                self._warned_at = time.monotonic()
                text = "%s serves the worker, but not its handler's process: too many open files there?"
                logger.warning(text, before.other_end)
            raise UnreachableError("there is no other registration")
        return registered

    async def _open(self) -> None:
        backoff = Backoff()
        while self._registered is not None:
            try:
                await self._link.open(self._registered)
            except UnreachableError as error:
                logger.debug("%s cannot be reached: %s", self._registered.other_end, error)
                await asyncio.sleep(backoff.next())
            else:
                return

    def _on_stop(self, attempt: Attempt) -> None:
        job = self._jobs.get(attempt)
        if job is None:
            # It is on its way here, or has ended.
            self._early_stops.append(attempt)
            self._tell_ended(attempt, "stopped before it began")
        elif job.has_run:
            asyncio.get_running_loop().call_soon(self._delivering[attempt].cancel)  # later: it may not have begun yet
        elif not self._host.stop(job):
            self._channel.send(Kind.UNSTOPPABLE, encode_attempt(attempt))

    # -- jobs ---------------------------------------------------------------------------------------------------------

    async def _take_jobs(self) -> None:
        await self._open()
        self._begin_task(self._link.receive())
        while not self._draining:
            self._free.clear()
            await self._try(self._link.take(self._capacity, self._held, self._begin))
            if self._capacity() == 0 and not self._draining:
                await self._free.wait()
        await self._try(self._link.give_back(self._held))
        self._on_gave_back()

    async def _try(self, call: Coroutine[Any, Any, None]) -> None:
        try:
            await call
        except LinkError as error:
            logger.error("what is asked is refused: %s", error)  # noqa: TRY400
            await asyncio.sleep(1)

    def _capacity(self) -> int:
        return 0 if self._draining else max(0, self._concurrency - self._running)

    def _held(self) -> list[Attempt]:
        return list(self._jobs)

    def _begin(self, taken: TakenJob) -> None:
        attempt = taken.attempt
        if self._gave_back or attempt in self._early_stops:
            return
        self._tell_begun(attempt)
        fields: dict[str, Any] = {"id": attempt.job}
        objection = ""
        try:
            fields = self._work.read(taken)
        except (ValueError, RecursionError) as error:
            objection = f"the job's input cannot be read in Python: {error}"
        job: AnyJob = Job(
            attempt,
            lambda job: self._work.run(fields, job, self._link.limits, self._link.worker),
            self._link,
            self._home,
            lambda text: self._on_over(attempt, text),
        )
        self._jobs[attempt] = job
        self._running += 1
        if objection:
            self._on_end(job, failed(objection))
        else:
            self._host.run(job)

    def _tell_begun(self, attempt: Attempt) -> None:
        """Before anything of the author's runs, which may never let go."""
        self._channel.add(Kind.BEGUN, encode_attempt(attempt))
        if self._work.is_async:
            self._tell_soon()  # it runs in a later turn than this, and others may begin in this one
        else:
            self._channel.flush()

    def _tell_soon(self) -> None:
        """In the next turn, all at once."""
        if not self._is_telling:
            self._is_telling = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._is_telling = False
        self._channel.flush()

    def _on_end(self, job: AnyJob, outcome: Outcome) -> None:
        """The outcome is sent before there is room for another job, whose handler may block the loop."""
        job.end_run()
        report, is_sent = None, True
        if not job.run.stopping:
            is_sent = job.delivery.sends_at_once(outcome)
            report = job.delivery.finish(outcome)
        self._delivering[job.attempt] = self._begin_task(self._deliver(job, outcome, report, not is_sent))
        if is_sent:
            self._make_room()
        if outcome.refresh and not self._draining:
            self._channel.send(Kind.REFRESH)
            self._drain()

    async def _deliver(self, job: AnyJob, outcome: Outcome, report: Report | None, takes_room: bool) -> None:
        text = "over"
        try:
            if report is not None and await report:
                text = outcome.summary
        finally:
            job.let_go()
            del self._jobs[job.attempt], self._delivering[job.attempt]
            if takes_room:
                self._make_room()
            self._tell_ended(job.attempt, text)
            self._tell_when_drained()

    def _make_room(self) -> None:
        self._running -= 1
        self._free.set()

    def _tell_ended(self, attempt: Attempt, text: str) -> None:
        self._channel.add(Kind.ENDED, encode_attempt(attempt, text))
        self._tell_soon()

    def _on_over(self, attempt: Attempt, objection: str) -> None:
        if objection:
            reason = f"what the handler said was refused: {objection}"
            self._channel.send(Kind.LOST, encode_attempt(attempt, reason))
        elif attempt in self._jobs and not self._jobs[attempt].has_run:
            self._channel.send(Kind.STALE, encode_attempt(attempt))

    def _set_progress(self, job_id: str, value: bytes) -> None:
        for attempt, job in reversed(self._jobs.items()):
            if attempt.job == job_id and not job.has_run:
                job.show(value)
                return

    def _on_concurrency(self, wanted: int) -> None:
        self._channel.send(Kind.CONCURRENCY, str(wanted).encode())
        self._home.call(self._resize, wanted)

    def _resize(self, wanted: int) -> None:
        self._concurrency = wanted
        self._look_again()

    def _look_again(self) -> None:
        self._free.set()
        if self._registered is not None:
            self._link.look_again()

    # -- the end ------------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        self._draining = True
        self._look_again()
        if self._registered is None:
            self._on_gave_back()  # nothing was taken yet
        else:
            asyncio.get_running_loop().call_later(GIVE_BACK_SECONDS, self._on_gave_back)

    def _on_gave_back(self) -> None:
        self._gave_back = True
        self._tell_when_drained()

    def _tell_when_drained(self) -> None:
        if self._gave_back and not self._jobs:
            self._channel.send(Kind.DRAINED)

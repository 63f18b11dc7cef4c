"""The functions against a small model: any sequence of calls leaves the store in the state that the model says."""

import itertools
import json
from dataclasses import dataclass, field
from typing import Any, cast

import redis
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from gateway.engine import keys

from ..stores import Running, Server
from .driver import CLOCKED, GROUP, LEASE_MS, QUEUES, clocked_source, id_at, text
from .fair_order import FairOrder

FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}
WORKERS = ("w1", "w2", "w3")
NAMES = (".high", "normal", "low")
STREAMS = (".high:again", ".high", *QUEUES)
WEIGHTS = {"": 1, "a": 1, "b c": 3, "d:{e}": 1000}

# The model counts only the time that the test lets pass, in steps of ten seconds; all deadlines lie five seconds beside
# them, so that the few moments that the test itself takes do not matter.
STEP_MS = 10_000
TIMEOUT_MS = 35_000
TTL_MS = 155_000
SHORT_TTL_MS = 85_000
RETENTION_MS = 65_000
DELAY_MS = 15_000
PENDING_MS = 45_000
ARCHIVED_MS = 95_000

LISTS = ("scheduled", "retry", "archived", "completed")
PASSING = {"lifetimes", "timeouts", "delayed", "workers", "waiting"}
"""Keys that are there as long as there is something in them."""


# All that the store knows of an endpoint, as JSON: {job: [fields, chunks]}, {queue: jobs}, [[job, worker] of each
# lease], {key: ms to live, -1 for ever}, {queue: shares of all turns}, {line: jobs}. Lists begin with '-', since an
# empty table would become an object.
LOOK = """
local function id_at(item)
  if item[2][1] == 'job' then return item[2][2] end
  return string.match(item[2][2], '^%S+') .. string.format('%012x', string.match(item[1], '^%d+'))
end
local base, jobs, queues, leases, lifetimes, turns, lines = KEYS[1], {}, {}, {'-'}, {}, {}, {['-'] = '-'}
local sealed = {}
for i = 1, 6 do
  local stream, queue = base .. ':queue:' .. ARGV[i], {'-'}
  for _, item in ipairs(redis.call('XRANGE', stream, '-', '+')) do
    queue[#queue + 1] = id_at(item)
    sealed[id_at(item)] = item[2][1] == 'sealed'
  end
  queues[ARGV[i]] = queue
  for _, item in ipairs(redis.call('XPENDING', stream, 'workers', '-', '+', 1000)) do
    leases[#leases + 1] = {id_at(redis.call('XRANGE', stream, item[1], item[1])[1]), item[2]}
  end
end
for i = 7, #ARGV do
  local chunks = {'-'}
  for _, item in ipairs(redis.call('XRANGE', base .. ':chunks:' .. ARGV[i], '-', '+')) do
    chunks[#chunks + 1] = {string.match(item[1], '%d+'), item[2][2]}
  end
  local fields = redis.call('HMGET', base .. ':job:' .. ARGV[i], 'state', 'attempt', 'tries', 'output', 'error')
  if not fields[1] and sealed[ARGV[i]] then fields[1] = 'IN_QUEUE' end
  jobs[ARGV[i]] = {fields, chunks}
end
for _, queue in ipairs({'.high', 'normal', 'low'}) do
  turns[queue] = {'-'}
  for _, turn in ipairs(redis.call('ZRANGE', base .. ':turns:' .. queue, 0, -1)) do
    turns[queue][#turns[queue] + 1] = string.match(turn, ' (.*)$')
  end
end
for _, key in ipairs(redis.call('KEYS', base .. ':*')) do
  local name = string.sub(key, #base + 2)
  lifetimes[name] = redis.call('PTTL', key)
  if string.find(name, '^line:') then lines[string.sub(name, 6)] = redis.call('ZRANGE', key, 0, -1) end
end
return cjson.encode({jobs, queues, leases, lifetimes, turns, lines})
"""


@dataclass
class Policy:
    tries: int
    pending: int
    keeps: bool

    def __str__(self) -> str:
        return f"{self.tries} {DELAY_MS} {self.pending} {ARCHIVED_MS} {int(self.keeps)}"


@dataclass
class Job:
    id: str
    queue: str
    share: str
    forgotten_at: int
    ttl: int = TTL_MS
    state: str = "IN_QUEUE"
    place: str = "queued"  # queued, running, delayed, none
    attempt: int = 0
    tries: int = 0
    worker: str | None = None
    ends_at: int = 0
    ready_at: int = 0
    committed: int = 0
    result: str | None = None
    position: int = 0
    chunks: list[tuple[int, str]] = field(default_factory=list)
    written: int = 0
    mark: int = 0
    hooked: bool = False
    ends: int = 0
    policy: Policy | None = None
    unique: bool = False
    gave_up: int = 0
    waits_until: int | None = None


class Machine(RuleBasedStateMachine):
    client: "redis.Redis"
    endpoints = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.base = keys.base(f"model-{next(self.endpoints)}")
        self.now = 0
        self.jobs: dict[str, Job] = {}
        self.gone: set[str] = set()
        self.queues: dict[str, list[str]] = {queue: [] for queue in STREAMS}
        self.orders = {queue: FairOrder() for queue in NAMES}
        self.paused: set[str] = set()
        self.unique: str | None = None
        self.fair = False
        self.versions = itertools.count(1)
        self.counts = dict.fromkeys(("COMPLETED", "FAILED", "TIMED_OUT", "CANCELLED", "retried"), 0)
        self.ids = itertools.count(1)
        self.deliveries: set[str] = set()

    def call(self, function: str, *arguments: str | int) -> Any:
        return text(self.client.fcall(f"{CLOCKED}_{function}", 1, self.base, *arguments))

    def raw(self, command: str, key: str, *arguments: str | int) -> Any:
        script = "return redis.call(unpack(ARGV))"
        return text(self.client.eval(script, 1, self.base, command, f"{self.base}:{key}", *arguments))

    # The model's own steps

    def are(self, *places: str) -> bool:
        """Whether there are jobs in such places."""
        return any(job.place in places for job in self.jobs.values())

    def pick(self, data: st.DataObject, *places: str) -> Job:
        jobs = [job for job in self.jobs.values() if not places or job.place in places]
        return data.draw(st.sampled_from(jobs), label="job")

    def pick_mostly_running(self, data: st.DataObject) -> Job:
        running = self.are("running") and data.draw(st.integers(0, 4), label="of five") < 4
        return self.pick(data, "running") if running else self.pick(data)

    def enqueue(self, job: Job, front: bool) -> None:
        queue = job.queue
        job.state, job.place, job.worker = "IN_QUEUE", "queued", None
        job.waits_until = self.now + job.policy.pending if job.policy and job.policy.pending else None
        if front:
            self.queues[f"{queue}:again"].append(job.id)
        elif self.fair:
            self.orders[queue].join(job.id, job.share, WEIGHTS[job.share])
        else:
            self.queues[queue].append(job.id)

    def next(self) -> set[str]:
        """Which jobs may be begun next. What was queued before the endpoint was made fair, or unfair, is first."""
        for queue in STREAMS:
            if queue.removesuffix(":again") in self.paused:
                continue
            stream, order = self.queues[queue], self.orders.get(queue)
            in_turn = order.next() if order else set()
            in_stream = set(stream[:1])
            if found := (in_stream or in_turn) if self.fair else (in_turn or in_stream):
                return found
        return set()

    def detach(self, job: Job) -> None:
        for order in self.orders.values():
            order.leave(job.id)
        for queue in self.queues.values():
            if job.id in queue:
                queue.remove(job.id)

    def end(self, job: Job, state: str, result: str | None) -> None:
        self.detach(job)
        is_kept = state != "COMPLETED" or job.policy is None or job.policy.keeps
        job.state, job.place, job.result = state, "none", result if is_kept else None
        job.forgotten_at = self.now + (ARCHIVED_MS if job.policy and state != "COMPLETED" else RETENTION_MS)
        self.counts[state] += 1
        self.announce(job)

    def announce(self, job: Job) -> None:
        if job.hooked:
            job.ends += 1
            self.deliveries.add(f"msg_{job.id}_{job.ends}")

    def lose(self, job: Job, reason: str) -> None:
        limit = self.limit(job)
        text = f"{reason} (attempt {job.tries} of {limit})" if job.tries >= limit else reason
        self.try_again(job, "FAILED", text, 0 if job.policy else self.delay)

    def limit(self, job: Job) -> int:
        return job.policy.tries if job.policy else self.attempts

    def back_off(self, job: Job) -> int:
        return int(job.tries**4 * DELAY_MS) if job.policy else self.delay

    def try_again(self, job: Job, state: str, reason: str, pause: int) -> None:
        if job.tries >= self.limit(job):
            self.end(job, state, reason)
            return
        self.detach(job)
        self.counts["retried"] += 1
        if pause:
            self.put_off(job, pause)
        else:
            self.enqueue(job, front=True)

    def put_off(self, job: Job, pause: int) -> None:
        job.state, job.place, job.worker, job.ready_at = "IN_QUEUE", "delayed", None, self.now + pause

    def holder(self) -> str | None:
        """The job that has the unique key and has not ended."""
        job = self.jobs.get(self.unique or "")
        return job.id if job and job.state not in FINAL else None

    def start(self, job: Job, worker: str) -> None:
        job.state, job.place, job.worker = "IN_PROGRESS", "running", worker
        job.attempt, job.tries = job.attempt + 1, job.tries + 1
        job.ends_at, job.written, job.chunks = self.now + TIMEOUT_MS, 0, []

    def forget(self, job: Job) -> None:
        self.detach(job)
        if job.state not in FINAL:
            self.announce(job)
        del self.jobs[job.id]
        self.gone.add(job.id)

    # What clients and workers do

    @initialize(attempts=st.integers(1, 3), delay=st.sampled_from([0, DELAY_MS]), fair=st.booleans())
    def make_endpoint(self, attempts: int, delay: int, fair: bool) -> None:
        self.attempts, self.delay = attempts, delay
        options: dict[str | int, str | int] = {
            "attempts": attempts,
            "retry_delay_ms": delay,
            "timeout_ms": TIMEOUT_MS,
            "lease_ms": LEASE_MS,
            "queues": " ".join(NAMES),
        }
        assert self.call("configure", "", *(part for pair in options.items() for part in pair)) == "OK"
        if fair:
            self.switch()

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """One of the calls that can do something now, the telling ones more often. (As rules of their own they are not
        drawn evenly enough: most histories would hardly begin a job.)"""
        weights = {self.submit: 2}
        if self.are("queued"):
            weights |= {self.take: 5, self.park: 3}
        if any(job.attempt for job in self.jobs.values()):
            weights |= {self.emit: 6, self.progress: 2, self.finish: 3, self.give_attempt_up: 3, self.renew: 2}
        if self.are("running"):
            weights |= {
                self.give_up_for_now: 3,
                self.let_lease_end: 2,
                self.leave: 1,
                self.join: 1,
                self.come_back: 1,
                self.refuse: 1,
            }
        if self.are("running", "delayed", "none"):
            weights |= {self.let_time_pass: 2, self.meet_a_leftover: 1}
        if self.are("none"):
            weights |= {self.retry: 3}
        if self.jobs:
            weights |= {self.cancel: 2, self.poll: 3, self.run: 3, self.delete: 1, self.pause: 1}
        if self.are("queued", "delayed") and len(self.jobs) > 4:
            weights |= {self.purge: 1, self.clear: 1, self.switch_fairness: 1}
        calls = [call for call, weight in weights.items() for _ in range(weight)]
        call = calls[data.draw(st.integers(0, len(calls) - 1), label="of the possible calls")]
        note(call.__name__)
        call(data)

    def submit(self, data: st.DataObject) -> None:
        queue, count = data.draw(st.sampled_from(NAMES), label="queue"), data.draw(st.integers(1, 4), label="count")
        share = data.draw(st.sampled_from(sorted(WEIGHTS)), label="share")
        hooked = data.draw(st.booleans(), label="hooked")
        policy = data.draw(st.none() | st.builds(
            Policy, st.integers(1, 3), st.sampled_from([0, PENDING_MS]), st.booleans()), label="policy")  # fmt: skip
        delay = data.draw(st.sampled_from([0, 0, DELAY_MS]), label="delay")
        unique = data.draw(st.sampled_from([False, False, True]), label="unique")
        ttl = data.draw(st.sampled_from([TTL_MS, TTL_MS, SHORT_TTL_MS]), label="time to live")
        numbered = data.draw(st.booleans(), label="numbered by the store")
        ids = [f"{next(self.ids):08x}-0000-4000-a000-" if numbered else f"j{next(self.ids)}" for _ in range(count)]
        arguments: list[str | int] = []
        terms = f"- {delay} {'k' if unique else '-'} {policy or ''}".rstrip()
        for id in ids:
            arguments += [id, "{}", queue, 0, ttl, RETENTION_MS, "", "", "", ""]
            arguments += [share, WEIGHTS[share], "https://example.com/" if hooked else "", terms, ""]
        for id, reply in zip(ids, self.call("submit", *arguments), strict=True):
            if unique and self.holder():
                assert reply == ["TAKEN", self.holder()]
                continue
            if numbered:
                id = f"{id}{reply:012x}"
            else:
                assert reply == "NEW"
            of = share if self.fair or delay else ""
            job = Job(id, queue, of, self.now + ttl, ttl, hooked=hooked, policy=policy, unique=unique)
            self.jobs[id] = job
            if unique:
                self.unique = id
            if delay:
                self.put_off(job, delay)
            else:
                self.enqueue(job, front=False)

    def switch_fairness(self, data: st.DataObject) -> None:
        self.switch()

    def switch(self) -> None:
        self.fair = not self.fair
        queues = " ".join(NAMES)
        assert self.call("configure", next(self.versions), "fair", int(self.fair), "queues", queues) == "OK"

    def join(self, data: st.DataObject) -> None:
        """A worker comes back and has only some of its jobs; the others never reached it."""
        worker = data.draw(st.sampled_from(WORKERS), label="worker")
        held = self.held_by(worker)
        has = [id for id in held if data.draw(st.booleans(), label=id)]
        function = data.draw(st.sampled_from(["join", "return"]), label="function")
        number = [next(self.ids)] if function == "return" else []
        self.call(function, worker, *number, *(part for id in has for part in (id, self.jobs[id].attempt)))
        for id in held:
            if id not in has:
                self.put_back(self.jobs[id])

    def put_back(self, job: Job) -> None:
        job.tries -= 1
        self.detach(job)
        self.enqueue(job, front=True)

    def refuse(self, data: st.DataObject) -> None:
        """A job never reached the worker that polled for it."""
        back = data.draw(st.sampled_from([0, 0, 1]), label="back")
        job = self.pick(data, "running")
        reply = self.call("refuse", job.id, job.attempt - back)
        assert reply == (["STALE", "IN_PROGRESS"] if back else "OK")
        if not back:
            self.put_back(job)

    def held_by(self, worker: str) -> list[str]:
        return [self._job_at(queue, entry) for queue, entry, owner in self.leases() if owner == worker]

    def take(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(WORKERS), label="worker")
        self.take_up_to(worker, data.draw(st.sampled_from([1, 2, 3, 4, 0]), label="capacity"))

    def park(self, data: st.DataObject) -> None:
        """A worker polls over HTTP; nobody holds the poll when there is nothing."""
        worker = data.draw(st.sampled_from(WORKERS), label="worker")
        most = data.draw(st.integers(1, 3), label="most")
        self.take_up_to(worker, most, "park", "gw", f"{next(self.ids)}", 10**9, 0, "", "", "")

    def come_back(self, data: st.DataObject) -> None:
        """A worker polls as one that has no job: it has lost what it had."""
        worker = data.draw(st.sampled_from(WORKERS), label="worker")
        for id in self.held_by(worker):
            reason = f"worker {worker} came back without the job: its process ended, or two workers share this id"
            self.lose(self.jobs[id], reason)
        self.take_up_to(worker, 1, "park", "gw", f"{next(self.ids)}", 10**9, 0, "1", "ready", "")

    def take_up_to(self, worker: str, capacity: int, function: str = "take", *more: str | int) -> None:
        all = [job for job in self.jobs.values() if job.place == "queued"]
        waiting = [job for job in all if job.queue not in self.paused]
        foretold = self.by_position(all)

        taken = self.call(function, worker, capacity, *more)

        assert len(taken) == min(capacity, len(waiting))
        if foretold is not None:
            served = [id for id in foretold if self.jobs[id].queue not in self.paused]
            assert [job[0] for job in taken] == served[: len(taken)]
        for id, attempt, *_ in taken:
            assert id in self.next()
            self.leave_queue(self.jobs[id])
            self.start(self.jobs[id], worker)
            assert attempt == self.jobs[id].attempt

    def by_position(self, waiting: list[Job]) -> list[str] | None:
        """The jobs as their status says they will be served; None when entries wait in streams, where leftovers and
        cancelled jobs count."""
        entries = sum(self.raw("XLEN", f"queue:{queue}") for queue in STREAMS)
        if any(self.queues.values()) or entries > len(self.leases()):
            return None
        places = {self.call("status", job.id, "")[10]: job.id for job in waiting}
        assert sorted(places) == list(range(len(waiting)))
        return [places[place] for place in sorted(places)]

    def leave_queue(self, job: Job) -> None:
        for queue in self.queues.values():
            if job.id in queue:
                queue.remove(job.id)
                return
        self.orders[job.queue].serve(job.id)

    def emit(self, data: st.DataObject) -> None:
        back = data.draw(st.sampled_from([0, 0, 0, 1, 2]), label="back")
        repeat = data.draw(st.booleans(), label="repeat")
        job = self.pick_mostly_running(data)
        attempt = max(job.attempt - back, 0)
        if job.place == "running" and not back and data.draw(st.booleans(), label="without a number"):
            job.position, job.written = job.position + 1, job.written + 1
            job.chunks.append((job.position, f"{attempt}.{job.written}"))
            post = f"{next(self.ids)}"
            for _ in range(1 + repeat):
                assert self.call("chunk", job.id, job.worker or "", post, job.chunks[-1][1]) == "OK"
            return
        first = job.written if repeat and job.written else job.written + 1
        reply = self.call("emit", job.id, attempt, first, f"{attempt}.{first}", f"{attempt}.{first + 1}")
        if job.place != "running" or attempt != job.attempt:
            assert reply == ["STALE", job.state]
            return
        assert reply == "OK"
        for number in range(job.written + 1, first + 2):
            job.position += 1
            job.chunks.append((job.position, f"{attempt}.{number}"))
        job.written = first + 1

    def progress(self, data: st.DataObject) -> None:
        back = data.draw(st.sampled_from([0, 0, 1]), label="back")
        job = self.pick_mostly_running(data)
        reply = self.call("progress", job.id, job.attempt - back, "50")
        assert reply == ("OK" if job.place == "running" and not back else ["STALE", job.state])

    def finish(self, data: st.DataObject) -> None:
        back = data.draw(st.sampled_from([0, 0, 1]), label="back")
        failed = data.draw(st.booleans(), label="failed")
        job = self.pick_mostly_running(data)
        attempt, result = max(job.attempt - back, 0), f"result of {job.attempt - back}"
        state, name = ("FAILED", "error") if failed else ("COMPLETED", "output")
        if job.place == "running" and not back and data.draw(st.booleans(), label="without a number"):
            reply = self.call("done", job.worker or "", "", job.id, f"@{job.worker}", state, name, result)
        else:
            reply = self.call("finish", job.id, attempt, state, name, result)
        if job.place == "running" and not back:
            assert reply == "OK"
            job.committed = attempt
            self.end(job, state, result)
        else:
            assert reply == ("OK" if attempt and attempt == job.committed else ["STALE", job.state])

    def give_up_for_now(self, data: st.DataObject) -> None:
        """The attempt failed, and its worker says that the next may not."""
        back = data.draw(st.sampled_from([0, 0, 1]), label="back")
        repeat = data.draw(st.booleans(), label="repeat")
        job = self.pick_mostly_running(data)
        attempt = job.attempt - back
        for _ in range(1 + repeat):
            reply = self.call("finish", job.id, attempt, "RETRY", "error", "not yet")
            if job.place == "running" and not back:
                assert reply == "OK"
                job.gave_up = attempt
                if job.tries >= self.limit(job):
                    job.committed = attempt
                self.try_again(job, "FAILED", "not yet", self.back_off(job))
            else:
                known = attempt > 0 and attempt in (job.committed, job.gave_up if not back else -1)
                assert reply == ("OK" if known else ["STALE", job.state])

    def give_attempt_up(self, data: st.DataObject) -> None:
        back = data.draw(st.sampled_from([0, 0, 1]), label="back")
        job = self.pick_mostly_running(data)
        reply = self.call("lose", job.id, job.attempt - back, "gave up")
        if job.place == "running" and not back:
            assert reply == "OK"
            self.lose(job, "gave up")
        else:
            assert reply == ["STALE", job.state]

    def cancel(self, data: st.DataObject) -> None:
        job = self.pick(data)
        if job.state not in FINAL:
            self.end(job, "CANCELLED", None)
        assert self.call("cancel", job.id)[0] == job.state

    def retry(self, data: st.DataObject) -> None:
        job = self.pick(data, "none")
        self.again(job, self.call("retry", job.id))

    def again(self, job: Job, reply: Any) -> None:
        if job.state not in ("FAILED", "TIMED_OUT") and not (job.state == "CANCELLED" and job.policy):
            assert reply == ["STATE", job.state]
            return
        if job.unique and self.holder():
            assert reply == ["TAKEN", self.holder()]
            return
        assert reply == "OK"
        if job.unique:
            self.unique = job.id
        job.tries, job.result, job.chunks, job.mark = 0, None, [], job.position
        job.forgotten_at = self.now + job.ttl
        self.enqueue(job, front=False)
        self.counts["retried"] += 1

    def run(self, data: st.DataObject) -> None:
        job = self.pick(data)
        reply = self.call("run", job.id)
        if job.place != "delayed":
            self.again(job, reply)
            return
        assert reply == "OK"
        self.enqueue(job, front=job.tries > 0)

    def delete(self, data: st.DataObject) -> None:
        job = self.pick(data)
        assert self.call("delete", job.id) == ("ACTIVE" if job.place == "running" else "OK")
        if job.place != "running":
            self.discard(job)

    def clear(self, data: st.DataObject) -> None:
        queue = data.draw(st.sampled_from(NAMES), label="queue")
        jobs = [job for job in self.jobs.values() if job.queue == queue and job.place != "running"]
        assert self.call("clear", queue, 1000) == len(jobs)
        for job in jobs:
            self.discard(job)

    def discard(self, job: Job) -> None:
        if job.state not in FINAL:
            self.end(job, "CANCELLED", None)
        self.forget(job)

    def pause(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sets(st.sampled_from(NAMES)), label="queues")
        off = data.draw(st.sampled_from([0, 0, 1]), label="paused")
        changed = chosen - self.paused if off else chosen & self.paused
        assert set(self.call("pause", off, *chosen)) == changed
        self.paused ^= changed

    def poll(self, data: st.DataObject) -> None:
        job = self.pick(data)
        described, _, chunks = self.call("poll", job.id, "")
        assert described[0] == job.state
        assert chunks == [chunk for position, chunk in job.chunks if position > job.mark]
        job.mark = max([job.mark, *(position for position, _ in job.chunks)])

    def let_lease_end(self, data: st.DataObject) -> None:
        """A worker is silent for longer than its lease, and upkeep comes by."""
        job = self.pick(data, "running")
        (queue, entry, worker) = next(lease for lease in self.leases() if self._job_at(*lease[:2]) == job.id)
        self.raw("XCLAIM", f"queue:{queue}", GROUP, worker, 0, entry, "IDLE", LEASE_MS + 1, "JUSTID")
        self.pass_time(0, [job])

    def let_time_pass(self, data: st.DataObject) -> None:
        steps = data.draw(st.integers(1, 4), label="steps")
        self.pass_time(steps * STEP_MS, [])

    def make_ready(self, ready: list[Job]) -> None:
        """Queues delayed jobs by the time for which they waited; the model does not tell moments of one step apart."""
        queued = [id_at(*item) for queue in STREAMS for item in self.raw("XRANGE", f"queue:{queue}", "-", "+")]
        places = {id: place for place, id in enumerate(queued)}
        for job in ready:
            if place := self.raw("HGET", f"job:{job.id}", "place"):
                places[job.id] = int(place)
        for job in sorted(ready, key=lambda job: (job.ready_at, places.get(job.id, 0))):
            self.enqueue(job, front=job.tries > 0)

    def pass_time(self, ms: int, silent: list[Job]) -> None:
        self.now += ms
        self.raw("INCRBY", "clock", ms)
        self.call("upkeep", 1000, 0)
        jobs = list(self.jobs.values())
        for job in jobs:
            if job.place == "running" and job.ends_at <= self.now:
                text = f"the job ran longer than its executionTimeout of {TIMEOUT_MS} ms"
                if job.policy:
                    self.try_again(job, "TIMED_OUT", text, self.back_off(job))
                else:
                    self.end(job, "TIMED_OUT", text)
            elif job.place == "queued" and job.waits_until is not None and job.waits_until <= self.now:
                self.end(job, "FAILED", f"the job waited longer than its pending_timeout of {PENDING_MS} ms")
        self.make_ready([job for job in jobs if job.place == "delayed" and job.ready_at <= self.now])
        for job in jobs:
            if job.forgotten_at <= self.now:
                self.forget(job)
        for job in silent:
            if job.id in self.jobs:
                self.lose(job, f"the worker gave no sign of life for {LEASE_MS} ms")

    def renew(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(WORKERS), label="worker")
        jobs = [job for job in self.jobs.values() if job.attempt]
        asked = data.draw(st.lists(st.sampled_from(jobs), unique_by=lambda job: job.id, max_size=4), label="jobs")
        lapsed = self.call(
            "renew", worker, 10**9, 1, "ready", "", *(part for job in asked for part in (job.id, job.attempt))
        )
        expected: list[str] = []
        for job in asked:
            if job.place != "running":
                expected += [] if job.attempt in (job.committed, job.gave_up) else [job.id, str(job.attempt), job.state]
            elif job.worker != worker:
                expected += [job.id, str(job.attempt), "LOST"]
        assert lapsed == expected

    def leave(self, data: st.DataObject) -> None:
        self.let_go(data.draw(st.sampled_from(WORKERS), label="worker"))

    def let_go(self, worker: str) -> None:
        held = self.held_by(worker)
        assert self.call("leave", worker) == len(held)
        for id in held:
            self.lose(self.jobs[id], f"worker {worker} left before the job ended")

    def purge(self, data: st.DataObject) -> None:
        waiting = [job for job in self.jobs.values() if job.place in ("queued", "delayed")]
        assert self.call("purge", 1000) == len(waiting)
        for job in waiting:
            self.end(job, "CANCELLED", None)

    def meet_a_leftover(self, data: st.DataObject) -> None:
        """The same job in the queue a second time; the worker that gets the entry drops it."""
        if "normal" in self.paused:
            return
        job = self.pick(data, "running", "none", "delayed")
        number = self.raw("HINCRBY", "counts", "entries:normal:again", 1)
        self.raw("XADD", "queue:normal:again", f"{number}-0", "job", job.id)
        before = len(self.queues[".high:again"]) + len(self.queues[".high"]) + len(self.orders[".high"])
        self.take_up_to("w1", before + len(self.queues["normal:again"]) + 1)

    # What must hold at any time

    def leases(self) -> list[tuple[str, str, str]]:
        return [
            (queue, item[0], item[1])
            for queue in STREAMS
            for item in self.raw("XPENDING", f"queue:{queue}", GROUP, "-", "+", 1000)
        ]

    def _job_at(self, queue: str, entry: str) -> str:
        return id_at(*self.raw("XRANGE", f"queue:{queue}", entry, entry)[0])

    @invariant()
    def the_store_is_as_the_model_says(self) -> None:
        jobs, queues, leases, lifetimes, turns, lines = json.loads(
            cast(bytes, self.client.eval(LOOK, 1, self.base, *STREAMS, *self.jobs))
        )
        self.check_jobs(jobs)
        self.check_queues({queue: ids[1:] for queue, ids in queues.items()})
        self.check_lines({queue: shares[1:] for queue, shares in turns.items()}, lines)
        self.check_states()
        held = [[job.id, job.worker] for job in self.jobs.values() if job.place == "running"]
        assert sorted(leases[1:]) == sorted(held), "each lease has its job"
        for key, ms in lifetimes.items():
            assert ms > 0 or key in self.lasting() | self.of_lines(), f"{key} expires or is known"
        assert not {f"job:{id}" for id in self.gone} & lifetimes.keys()
        kept = {key for key in lifetimes if key.startswith(("webhook:", "event:"))}
        assert kept == {f"{kind}:{id}" for kind in ("webhook", "event") for id in self.deliveries}, "each end is told"

    def check_states(self) -> None:
        """The numbers of jobs in Runqy's states, which are counted in the lists and not in the jobs."""
        states = ("pending", "active", *LISTS)
        found = {row[0]: dict(zip(states, row[1:7], strict=True)) for row in self.call("queues")}
        expected = {queue: dict.fromkeys(states, 0) for queue in NAMES}
        for job in self.jobs.values():
            counts = expected[job.queue]
            if job.place == "none":
                counts["completed" if job.state == "COMPLETED" else "archived"] += 1
            else:
                delayed = "retry" if job.tries else "scheduled"
                counts[{"queued": "pending", "running": "active", "delayed": delayed}[job.place]] += 1
        assert found == expected

    def check_jobs(self, found: dict[str, Any]) -> None:
        for job in self.jobs.values():
            fields, chunks = found[job.id]
            state, attempt, tries, output, error = (field or None for field in fields)
            assert (state, int(attempt or 0), int(tries or 0), output or error) == (
                job.state, job.attempt, job.tries, job.result,
            )  # fmt: skip
            assert job.tries <= self.limit(job)
            assert [(int(position), chunk) for position, chunk in chunks[1:]] == job.chunks

    def check_queues(self, found: dict[str, list[str]]) -> None:
        in_line = {id for order in self.orders.values() for ids in order.waiting().values() for id in ids}
        places = {job.id for job in self.jobs.values() if job.place in ("queued", "running")}
        assert sorted(id for ids in found.values() for id in ids) == sorted(places - in_line), "each has one entry"
        for queue, waiting in self.queues.items():
            assert [id for id in found[queue] if self.jobs[id].place == "queued"] == waiting

    def check_lines(self, turns: dict[str, list[str]], lines: dict[str, list[str]]) -> None:
        del lines["-"]
        assert lines == {
            f"{queue}:{share}": ids for queue, order in self.orders.items() for share, ids in order.waiting().items()
        }
        for queue, order in self.orders.items():
            expected = [share for share, ids in order.waiting().items() for _ in ids]
            assert sorted(turns[queue]) == sorted(expected), "each share has as many turns as jobs"

    def of_lines(self) -> set[str]:
        """The keys that there are while jobs stand in line."""
        found = set()
        for queue, order in self.orders.items():
            if len(order):
                found |= {f"{name}:{queue}" for name in ("turns", "shares", "numbers")}
                found |= {f"line:{queue}:{share}" for share in order.waiting()}
        return found

    @invariant()
    def the_counts_are_right(self) -> None:
        health = self.call("health")
        places = [job.place for job in self.jobs.values()]
        assert health[:5] == [
            self.counts["COMPLETED"],
            self.counts["FAILED"] + self.counts["TIMED_OUT"],
            places.count("running"),
            places.count("queued") + places.count("delayed"),
            self.counts["retried"],
        ]
        assert health[2] + health[3] == sum(job.state not in FINAL for job in self.jobs.values())

    def lasting(self) -> set[str]:
        queues = {f"queue:{queue}" for queue in STREAMS}
        lists = {f"{name}:{queue}" for name in LISTS for queue in NAMES}
        return queues | lists | {"settings", "counts", "clock", *PASSING}

    def keys(self) -> set[str]:
        found = cast(list[bytes], self.client.keys(f"{self.base}:*"))
        return {key.decode().removeprefix(f"{self.base}:") for key in found}

    def teardown(self) -> None:
        """All jobs end, all workers go, all time passes: nothing is left but the endpoint."""
        if not self.keys():
            return
        for worker in WORKERS:
            self.let_go(worker)
        for job in self.jobs.values():
            self.call("cancel", job.id)
        self.call("purge", 1000)
        assert [self.raw("XLEN", f"queue:{queue}") for queue in STREAMS] == [0] * 6
        self.raw("INCRBY", "clock", TTL_MS)
        self.call("upkeep", 1000, 0)
        told = ("webhook", "event:", "deliveries", "departed", "unique:")
        queues = {f"queue:{queue}" for queue in STREAMS}
        assert {key for key in self.keys() if not key.startswith(told)} == queues | {"settings", "counts", "clock"}
        self.client.unlink(*(f"{self.base}:{key}" for key in self.keys()))


def test_any_history_follows_the_model(server: Running) -> None:
    assert isinstance(server, Server)
    with server.client as Machine.client:
        Machine.client.function_load(clocked_source(), replace=True)
        bounds = settings(
            max_examples=100,
            database=None,
            stateful_step_count=50,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(Machine, settings=bounds)

"""What a worker's user at the store may do, tried with a real one."""

from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from gateway.access.credentials import Credentials
from gateway.store import LIBRARY, Store

from ..clients import Target, Worker, bearer
from ..conftest import STORE_PASSWORD, Make
from ..waiting import eventually

REFUSED = [
    "KEYS *", "SCAN 0", "DBSIZE", "RANDOMKEY", "FLUSHALL", "FLUSHDB",
    "SWAPDB 0 1", "INFO", "MONITOR", "SHUTDOWN NOSAVE",
    "SAVE", "BGSAVE", "BGREWRITEAOF", "REPLICAOF NO ONE", "CONFIG GET requirepass", "CONFIG SET maxmemory 1",
    "ACL LIST", "ACL SETUSER x on", "ACL DELUSER default", "ACL WHOAMI", "CLIENT LIST", "CLIENT KILL TYPE normal",
    "CLIENT PAUSE 1", "FUNCTION LIST", "FUNCTION FLUSH", "FUNCTION DELETE x", "FUNCTION DUMP", "EVAL return(1) 0",
    "SCRIPT FLUSH", "SUBSCRIBE x", "PSUBSCRIBE *", "PUBLISH x y", "SSUBSCRIBE x", "SPUBLISH x y", "MULTI",
    "GET runlane:upkeep", "SET runlane:upkeep x", "DEL runlane:upkeep", "UNLINK runlane:upkeep",
    "SMEMBERS runlane:endpoints", "SADD runlane:endpoints x", "HGET x y", "HSET x y z", "XADD x * a b", "EXISTS x",
    "XLEN x", "ZRANGE x 0 -1", "MIGRATE h 1 k 0 1", "CLUSTER RESET", "LATENCY RESET", "SLOWLOG GET", "MODULE LIST",
]  # fmt: skip


def url_of(worker: Worker) -> str:
    url = worker.registered["redis"]["url"]
    assert isinstance(url, str)
    return url


def test_the_user_s_name_tells_endpoint_and_worker(target: Target, worker: Worker) -> None:
    assert urlsplit(url_of(worker)).username == f"runlane%3A{target.id}%3Aw1"
    assert STORE_PASSWORD not in str(worker.registered)
    assert worker.registered["redis"]["cluster"] is False


async def test_a_worker_can_do_its_work(target: Target, worker: Worker) -> None:
    id = await target.run(1, policy={"lowPriority": True})
    job = await worker.next()
    worker.ready()
    assert worker.emit(job, 1, b"1") == b"OK"
    assert worker.progress(job, b"1") == b"OK"
    assert worker.stopped(job) == []
    assert worker.call("tell", "w1", "{}", "a", 1, *[0, "stdout", "x"] * 501) == b"OK"
    assert worker.lose(job) == b"OK"
    ((taken, attempt, *_),) = worker.call("take", "w1", 1)
    assert (taken, attempt) == (id.encode(), 2)
    assert worker.call("finish", id, attempt, "COMPLETED", "output", "2") == b"OK"
    assert worker.call("leave", "w1") == 0
    assert (await target.status(id))["output"] == 2


@pytest.mark.parametrize("fair", [False, True])
async def test_a_worker_can_do_its_work_on_a_queue_of_several(
    make_target: Make, admin: "redis.Redis", fair: bool
) -> None:
    """All that an endpoint can have, so that its functions meet all that they can meet."""
    queue = {
        "sub_queues": [{"name": "high", "priority": 9}, {"name": "default", "priority": 1}],
        "starvation_seconds": 0.001,
    }
    target = await make_target(queue=queue, fair=fair, webhook="http://127.0.0.1:9/", retryDelaySeconds=60)
    worker = await target.register("w1")
    submit, run, pause = (
        partial(admin.fcall, f"{LIBRARY}_{name}", 1, target.base) for name in ("submit", "run", "pause")
    )

    def add(id: str, queue: str, tries: int, keeps: int) -> None:
        terms = f"- 0 unique-{id} {tries} 10000 500000 600000 {keeps}"
        arguments = (id, "1", queue, 0, 600_000, 60_000, "", "", "", "", "share", 2, "", terms, "")
        assert submit(*arguments) == [b"NEW"]

    worker.ready()
    add("a", ".high", 3, 0)
    add("b", "normal", 1, 1)
    a, b = worker.take(2)
    assert (a.id, b.id) == ("a", "b")
    assert worker.emit(a, 1, b"1") == b"OK"
    assert worker.call("finish", "a", 1, "RETRY", "error", "not yet") == b"OK"
    assert worker.call("finish", "a", 1, "RETRY", "error", "not yet") == b"OK"
    assert worker.stopped(a) == []
    assert worker.call("finish", "b", 1, "RETRY", "error", "no more") == b"OK"
    assert run("a") == run("b") == b"OK"
    pause(1, ".high")
    (b,) = worker.take(2)
    assert (b.id, b.attempt) == ("b", 2)
    pause(0, ".high")
    (a,) = worker.take(1)
    assert worker.lose(b) == b"OK"
    assert worker.call("leave", "w1") == 1
    (a,) = worker.take(1)
    assert (a.id, a.attempt) == ("a", 3)
    assert worker.finish(a) == b"OK"
    # Lines of shares are served first when the endpoint is fair no more.
    add("c", "normal", 1, 1)
    await target.http.patch(f"/v1/endpoints/{target.id}", json={"fair": not fair})
    (c,) = worker.take(1)
    assert worker.call("join", "w1") == 1
    assert [job.id for job in worker.take(1)] == [c.id]


@pytest.mark.parametrize("command", REFUSED)
def test_a_worker_can_do_nothing_else(worker: Worker, command: str) -> None:
    with pytest.raises(NoPermissionError):
        worker.store.execute_command(*command.split())


@pytest.mark.parametrize(
    "function", ["take w 1", "status x w", "health", "cancel x", "purge 1", "remove 1", "leave w", "list +inf 0 10",
                 "renew w 1000 1 ready d", "upkeep 1 1", "retry x", "submit 1 1 normal 0 60000 1000 r w k f"],
)  # fmt: skip
async def test_the_functions_are_refused_for_another_endpoint(make_target: Make, function: str) -> None:
    mine, other = await make_target(), await make_target()
    id = await other.run(1)
    worker = await mine.register("w")
    name, *arguments = function.split()
    with pytest.raises(ResponseError, match=r"(?i)permission|NOPERM"):
        worker.store.fcall(f"{LIBRARY}_{name}", 1, other.base, *arguments)
    assert (await other.status(id))["status"] == "IN_QUEUE"
    assert await other.listed() == [id]


async def test_keys_and_channels_of_another_endpoint_are_refused(make_target: Make) -> None:
    mine, other = await make_target(), await make_target()
    id = await other.run("secret")
    worker = await mine.register()
    for command in (
        ("HGET", f"{other.base}:job:{id}", "input"), ("HSET", f"{other.base}:job:{id}", "state", "COMPLETED"),
        ("XADD", f"{other.base}:queue:normal", "*", "job", "x"), ("XLEN", f"{other.base}:queue:normal"),
        ("XRANGE", f"{other.base}:queue:normal", "-", "+"),
        ("UNLINK", f"{other.base}:settings"), ("HGET", f"{other.base}:settings", "worker_key"),
        ("SSUBSCRIBE", f"{other.base}:worker:w1"), ("SPUBLISH", f"{other.base}:stops:w1", "job 1 LOST"),
        ("XREADGROUP", "GROUP", "workers", "w", "STREAMS", f"{other.base}:queue:normal", ">"),
    ):  # fmt: skip
        with pytest.raises(NoPermissionError):
            worker.store.execute_command(*command)


async def test_a_library_that_a_worker_brings_is_refused(worker: Worker) -> None:
    with pytest.raises(NoPermissionError):
        worker.store.function_load("#!lua name=x\nredis.register_function('x', function() return 1 end)")


def works(url: str, base: str) -> bool:
    """Whether this user can do something at the store."""
    with redis.Redis.from_url(url) as store:
        try:
            store.fcall(f"{LIBRARY}_health", 1, base)
        except RedisError:
            return False
    return True


async def test_a_worker_that_left_is_locked_out(target: Target, worker: Worker) -> None:
    other = await target.register("w10")
    worker.ready()
    response = await target.http.delete(f"{target.path}/workers/w1", headers=bearer(target.worker_key))
    assert response.status_code == 200
    with pytest.raises((AuthenticationError, redis.ConnectionError)):
        worker.ready()  # over the connection that it had
    assert not works(url_of(worker), target.base)
    other.ready()


async def test_the_workers_of_a_deleted_endpoint_are_locked_out(make_target: Make, http: Any) -> None:
    target, other = await make_target(), await make_target()
    workers = [await target.register(f"w{i}") for i in range(3)]
    stays = await other.register("w0")
    await http.delete(f"/v1/endpoints/{target.id}")
    assert [works(url_of(worker), target.base) for worker in workers] == [False] * 3
    stays.ready()


async def test_a_silent_worker_is_locked_out_and_its_job_goes_on(make_target: Make) -> None:
    target = await make_target(leaseSeconds=1)
    silent = await target.register("w1")
    id = await target.run(1)
    assert len(silent.take()) == 1

    async def locked_out() -> bool:
        return not works(url_of(silent), target.base)

    await eventually(locked_out)
    (job,) = (await target.register("w2")).take()
    assert (job.id, job.attempt) == (id, 2)


async def test_registering_again_gives_a_new_password(target: Target, worker: Worker) -> None:
    id = await target.run(1)
    (job,) = worker.take()
    again = await target.register("w1")
    assert url_of(again) != url_of(worker)
    assert not works(url_of(worker), target.base)
    assert again.stopped(job) == []  # it still holds the job
    assert again.finish(job, b"2") == b"OK"
    assert (await target.status(id))["output"] == 2


async def test_a_user_that_got_lost_comes_back_with_a_registration(
    target: Target, worker: Worker, admin: "redis.Redis"
) -> None:
    admin.acl_deluser(urlsplit(url_of(worker)).username.replace("%3A", ":"))  # type: ignore[union-attr]
    assert not works(url_of(worker), target.base)
    assert works(url_of(await target.register("w1")), target.base)


async def test_workers_may_have_an_address_of_their_own_for_the_store(store: Store, endpoint: str) -> None:
    credentials = Credentials(store, "rediss://name:secret@store.example:6390/0?x=1")
    granted = await credentials.grant(endpoint, "w1")
    await credentials.revoke(endpoint, "w1")
    url = urlsplit(granted["url"])
    assert (url.scheme, url.hostname, url.port, url.path, url.query) == ("rediss", "store.example", 6390, "/0", "x=1")
    assert url.username == f"runlane%3A{endpoint}%3Aw1"
    assert "secret" not in granted["url"]

"""A fair endpoint as it is deployed: one gateway, one worker that runs one job at a time, two submitters."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.engine.engine import Engine, Submission
from gateway.store import open_store

from ..stores import Server
from .clients import MINUTE_MS, Target
from .conftest import Make
from .processes import Gateway, Process
from .waiting import eventually

HANDLER = """
import pathlib, time
import handler_sdk

here = pathlib.Path(__file__).parent


def handler(job):
    while job["input"] == "first" and not (here / "go").exists():
        time.sleep(0.01)
    with (here / "begun").open("a") as begun:
        begun.write(job["input"] + "\\n")
    return job["input"]


handler_sdk.start({"handler": handler})
"""


@pytest.fixture
def start_worker(gateway: Gateway, tmp_path: Path) -> Iterator[Callable[[Target], None]]:
    """Starts a worker whose first job waits for the file `go`; what begins is in the file `begun`, in order."""
    started: list[Process] = []
    handler = tmp_path / "handler.py"
    handler.write_text(HANDLER)

    def start(target: Target) -> None:
        settings = {"url": gateway.url, "endpoint": target.id, "worker_key": target.worker_key}
        started.append(Process(tmp_path / "worker", "worker", str(handler), **settings))

    yield start
    for process in started:
        process.stop()


@asynccontextmanager
async def submitter(store_url: str) -> AsyncIterator[Engine]:
    store = await open_store(store_url)
    engine = Engine(store)
    try:
        yield engine
    finally:
        await engine.close()
        await store.close()


async def submit(engine: Engine, target: Target, share: str, count: int) -> None:
    for number in range(count):
        id = f"{share}-{number}"
        await engine.submit(target.id, Submission(id, f'"{id}"'.encode(), MINUTE_MS, MINUTE_MS, MINUTE_MS, share=share))


async def test_the_jobs_of_one_submitter_do_not_wait_for_the_flood_of_another(
    make_target: Make, backing: Server, start_worker: Callable[[Target], None], tmp_path: Path
) -> None:
    target = await make_target(fair=True)
    first = await target.run("first")
    start_worker(target)

    async def running() -> bool:
        return (await target.status(first))["status"] == "IN_PROGRESS"

    await eventually(running)
    async with submitter(backing.url) as one, submitter(backing.url) as other:
        await submit(one, target, "flood", 200)
        await asyncio.gather(submit(one, target, "more", 200), submit(other, target, "ten", 10))
        position = (await target.status("ten-9"))["position"]
    (tmp_path / "go").touch()

    async def all_completed() -> bool:
        return (await target.health())["jobs"]["completed"] == 411

    await eventually(all_completed, 60)
    begun = (tmp_path / "begun").read_text().split()
    assert begun.index("ten-9") == position
    assert position <= 30
    for share, count in (("flood", 200), ("more", 200), ("ten", 10)):
        assert [id for id in begun if id.startswith(share)] == [f"{share}-{number}" for number in range(count)]

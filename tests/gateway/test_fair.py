"""A fair endpoint as it is deployed: one gateway, one worker that runs one job at a time, two keys."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .clients import API_KEY, Target, bearer
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


async def submit(target: Target, key: str, name: str, count: int) -> str:
    """Queues jobs with a key; returns the id of the last."""
    for number in range(count):
        response = await target.post("/run", {"input": f"{name}-{number}"}, headers=bearer(key))
    return str(response.json()["id"])


async def test_the_jobs_of_one_key_do_not_wait_for_the_flood_of_another(
    make_target: Make, start_worker: Callable[[Target], None], tmp_path: Path
) -> None:
    target = await make_target(fair=True)
    first = await target.run("first")
    start_worker(target)

    async def running() -> bool:
        return (await target.status(first))["status"] == "IN_PROGRESS"

    await eventually(running)
    await submit(target, API_KEY, "flood", 200)
    _, last = await asyncio.gather(submit(target, API_KEY, "more", 200), submit(target, "rl-other-key", "ten", 10))
    position = (await target.status(last))["position"]
    (tmp_path / "go").touch()

    async def all_completed() -> bool:
        return (await target.health())["jobs"]["completed"] == 411

    await eventually(all_completed, 60)
    begun = (tmp_path / "begun").read_text().split()
    assert begun.index("ten-9") == position
    assert position <= 30
    for share, count in (("flood", 200), ("more", 200), ("ten", 10)):
        assert [id for id in begun if id.startswith(share)] == [f"{share}-{number}" for number in range(count)]

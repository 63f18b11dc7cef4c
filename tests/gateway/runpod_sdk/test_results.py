"""What handlers of RunPod's SDK return, and what becomes of it; many jobs at once, taken in batches."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..clients import Target
from ..waiting import eventually
from .conftest import ClientOf, MakeEndpoint, StartWorker, final
from .workers import Endpoint, Sdk, SdkWorker

VALUES: list[Any] = [
    None, 0, False, True, "", [], {}, 12345, "12345", -1.5, 1e300, "żółć \U0001f600 \u2028 \"'\\ \0", [None, [], {}],
    {"a": {"b": [{"c": [[[]]]}, {"": None}]}}, {"output": 1, "status": "FAILED"}, "x" * 1_200_000,
]  # fmt: skip


@pytest.fixture(scope="module")
def served(sdk: Sdk, make_endpoint: MakeEndpoint, start_worker: StartWorker) -> Iterator[tuple[Endpoint, SdkWorker]]:
    """An endpoint, and its worker that runs up to 20 jobs at once."""
    endpoint = make_endpoint()
    worker = start_worker(sdk, endpoint, CONCURRENCY="20")
    yield endpoint, worker
    worker.kill()


@pytest.fixture
def target(served: tuple[Endpoint, SdkWorker], client_of: ClientOf) -> Target:
    return client_of(served[0])


@pytest.fixture
def worker(served: tuple[Endpoint, SdkWorker]) -> SdkWorker:
    return served[1]


async def test_it_is_the_version_that_it_should_be(target: Target, worker: SdkWorker, sdk: Sdk) -> None:
    assert (await final(target, 1))["output"] == 1
    assert worker.starts == [sdk.version]

    async def pinged() -> Any:
        """What the list says of the worker, once that has pinged."""
        (listed,) = (await target.get("/workers")).json()["workers"]
        return listed["sdk"] and listed

    listed = await eventually(pinged)
    assert (listed["id"], listed["sdk"], listed["gpu"], listed["link"]) == (
        "w1", f"runpod {sdk.version}", "NVIDIA X", "http",
    )  # fmt: skip


async def test_values_arrive_as_they_are(target: Target) -> None:
    inputs = [*VALUES, *({"do": "return", "value": value} for value in VALUES)]
    jobs = await asyncio.gather(*(final(target, input) for input in inputs))
    assert [job["status"] for job in jobs] == ["COMPLETED"] * len(inputs)
    assert json.dumps([job["output"] for job in jobs]) == json.dumps([*VALUES, *VALUES])


async def test_what_json_does_not_have_becomes_null(target: Target) -> None:
    job = await final(target, {"do": "nan"})
    assert job["output"] == {"nan": None, "others": [None, None, 1.5, "ż", {"deep": None}]}


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"error": "out of memory: ż"}, "out of memory: ż"),
        ({"error": "with more", "detail": [1]}, "with more"),
        ({"error": {"code": 7}}, '{"code": 7}'),
    ],
)
async def test_a_result_that_is_an_error(target: Target, value: Any, error: str) -> None:
    job = await final(target, {"do": "return", "value": value})
    assert (job["status"], job["error"]) == ("FAILED", error)
    assert "output" not in job


@pytest.mark.parametrize("value", [{"error": None}, {"error": ""}, {"error": False, "more": 1}])
async def test_a_result_with_an_error_that_is_none(target: Target, value: dict[str, Any]) -> None:
    job = await final(target, {"do": "return", "value": value})
    assert (job["status"], job["output"]) == ("COMPLETED", {name: value[name] for name in value if name != "error"})


async def test_an_exception(target: Target, sdk: Sdk) -> None:
    job = await final(target, {"do": "raise", "text": "as asked: ż"})
    assert job["status"] == "FAILED"
    error = json.loads(job["error"])
    assert error["error_type"] == "<class 'ValueError'>"
    assert error["error_message"] == "as asked: ż"
    assert 'handlers.py", line ' in error["error_traceback"]
    assert (error["worker_id"], error["hostname"], error["runpod_version"]) == ("w1", "w1", sdk.version)


async def test_what_the_handler_is_given(target: Target) -> None:
    webhook, policy = "http://127.0.0.1:9/", {"executionTimeout": 60_000}
    job = await final(target, {"do": "job"}, policy=policy, webhook=webhook, s3Config={"a": "ż"})
    assert job["output"] == {
        "id": job["id"], "input": {"do": "job"}, "policy": policy, "webhook": webhook, "s3Config": {"a": "ż"},
        "attempt": 1, "retries": 0,
    }  # fmt: skip
    assert job["workerId"] == "w1"


async def test_progress_is_shown_while_the_job_runs(target: Target, tmp_path: Path) -> None:
    values = [{"step": 1, "text": "ż"}, {"step": 2, "text": None}]
    id = await target.run({"do": "progress", "values": values, "file": str(tmp_path / "go")})
    for value in values:

        async def shown(value: Any = value) -> bool:
            return (await target.status(id)).get("output") == value

        await eventually(shown)
        assert (await target.status(id))["status"] == "IN_PROGRESS"
        (tmp_path / f"go-{value['step']}").touch()
    job = (await target.get(f"/status-sync/{id}")).json()
    assert (job["status"], job["output"]) == ("COMPLETED", "done")


async def test_a_result_that_comes_after_the_cancel_changes_nothing(
    target: Target, worker: SdkWorker, tmp_path: Path
) -> None:
    """A handler that blocks hears of nothing."""
    id = await target.run({"do": "block", "file": str(tmp_path / "go")})
    await worker.has_recorded((1, "begins"), id)
    assert (await target.post(f"/cancel/{id}")).json()["status"] == "CANCELLED"
    (tmp_path / "go").touch()
    await worker.has_recorded((1, "ends"), id)
    assert (await final(target, "next"))["output"] == "next"
    job = await target.status(id)
    assert job["status"] == "CANCELLED"
    assert "output" not in job


async def test_a_cancelled_job_is_stopped(target: Target, worker: SdkWorker, sdk: Sdk, tmp_path: Path) -> None:
    if not sdk.hears_stops:
        pytest.skip("1.7.13 does not ask what it is to stop")
    go = tmp_path / "go"
    id, other = [await target.run({"do": "wait", "file": str(go)}) for _ in range(2)]
    for job in (id, other):
        await worker.has_recorded((1, "begins"), job)
    assert (await target.post(f"/cancel/{id}")).json()["status"] == "CANCELLED"
    await worker.has_recorded((1, "cancelled"), id)
    go.touch()
    assert (await target.get(f"/status-sync/{other}")).json()["output"] == "ended"
    assert worker.recorded(id) == [(1, "begins"), (1, "cancelled")]
    assert (await target.status(id))["status"] == "CANCELLED"


async def test_refresh_in_a_result_is_taken_out_of_it(target: Target, worker: SdkWorker) -> None:
    job = await final(target, {"do": "return", "value": {"refresh_worker": True, "value": 1}})
    assert (job["status"], job["output"]) == ("COMPLETED", {"value": 1})
    assert (await final(target, 2))["output"] == 2
    assert len(worker.starts) == 1  # RunPod's machines would have ended it

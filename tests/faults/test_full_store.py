"""The store is out of memory and refuses to write."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..gateway.waiting import eventually
from .conftest import MakeDeployment, MakeTrial
from .deployment import Deployment
from .trial import Trial

LEASE_SECONDS = 2.0


@contextmanager
def full(deployment: Deployment) -> Iterator[None]:
    """Has no memory left meanwhile."""
    with deployment.store.client as store:
        store.config_set("maxmemory", 1)
        try:
            yield
        finally:
            store.config_set("maxmemory", 0)


async def is_refused(trial: Trial) -> bool:
    answer = await trial.client.once("POST", "/run", {"input": {}})
    return answer.status == 503 and int(answer.headers["retry-after"]) > 0 and "memory" in answer.text


async def test_refuses_submissions_and_ends_what_runs(make_deployment: MakeDeployment, make_trial: MakeTrial) -> None:
    deployment = make_deployment(1)
    streaming, plain = make_trial(deployment), make_trial(deployment)
    await streaming.start_worker(deployment.nodes[0], "generator")
    await plain.start_worker(deployment.nodes[0], "plain")
    stream, job = await streaming.client.run(until=streaming.gate), await plain.client.run(until=plain.gate)
    queued = [await trial.client.run() for trial in (streaming, plain)]
    await streaming.started(stream)
    await plain.started(job)

    with full(deployment):
        assert await is_refused(streaming)
        plain.open_gate()
        streaming.open_gate()
        assert (await plain.client.final(job))["status"] == "COMPLETED"
        await streaming.written(stream, 3)
        assert (await streaming.client.status(stream))["status"] == "IN_PROGRESS"
        assert await is_refused(plain)
    assert len(await streaming.client.follow(stream)) == 3
    for trial, waited in zip((streaming, plain), queued, strict=True):
        assert (await trial.client.final(waited))["status"] == "COMPLETED"
        assert (await trial.client.final(await trial.client.run()))["status"] == "COMPLETED"
        await trial.settle()
    assert streaming.history.starts(stream) == plain.history.starts(job) == [1]


async def test_still_gives_up_workers_that_are_gone(make_deployment: MakeDeployment, make_trial: MakeTrial) -> None:
    deployment = make_deployment(1)
    trial = make_trial(deployment, leaseSeconds=LEASE_SECONDS)
    worker = await trial.start_worker(deployment.nodes[0])
    job = await trial.client.run(chunks=1, pause=1)
    await trial.started(job)

    async def is_back() -> bool:
        status = await trial.client.status(job)
        return bool(status["status"] == "IN_QUEUE")

    with full(deployment):
        worker.kill()
        assert await eventually(is_back, LEASE_SECONDS + 5)
    await trial.start_worker(deployment.nodes[0])
    await trial.settle()
    assert trial.history.starts(job) == [1, 2]

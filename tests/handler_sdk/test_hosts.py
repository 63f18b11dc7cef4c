"""Hosts without a worker: what `test_worker.py` cannot bring about at will."""

from typing import Any, cast

from handler_sdk.home import Home
from handler_sdk.hosts import ThreadHost
from handler_sdk.job import Job
from handler_sdk.links import Attempt, Link
from handler_sdk.outcomes import Limits, Outcome
from handler_sdk.runners import HandlerConfig, Run


class NoLink:
    worker = "worker-1"
    limits = Limits()


def test_a_job_that_waits_for_a_thread_is_stopped_without_having_run() -> None:
    """It came when the author had wished for fewer at once meanwhile."""
    ran: list[Any] = []
    ended: list[tuple[Job[Run], Outcome]] = []
    config = HandlerConfig.of({"handler": ran.append})
    host: ThreadHost[Job[Run]] = ThreadHost(config, Home(), lambda *end: ended.append(end), lambda _: None)
    link = cast(Link, NoLink())
    job = Job(Attempt("job", 1), lambda job: Run(config, {"id": "job"}, job, link.limits), link, Home(), lambda _: None)
    host.run(job)  # its one thread does not serve yet

    assert host.stop(job)

    assert ended == [(job, Outcome("STOPPED"))]
    assert job.run.stopping
    assert ran == []

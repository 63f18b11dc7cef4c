"""The libraries that runlane is measured against, each at the fastest setting of those that its documentation has.

What stays at its default is not said. The jobs are in the modules `with_…`, the settings of the workers here or there,
as the library wants it. Where a library runs jobs one after the other only, `setting` says so.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rival:
    """A library, and how its worker is started.

    packages: what pip installs for it, itself first. command: its worker, where {store} is the store's URL.
    documentation: where the setting is described. variables: of the worker's environment.
    """

    name: str
    packages: tuple[str, ...]
    command: str
    setting: str
    documentation: str
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """The library's own."""
        return self.packages[0].partition("==")[2]

    @property
    def module(self) -> str:
        """With its jobs. As a program it queues them."""
        return f"{_HERE}.with_{self.name}"


_HERE = "loadtest.bench.rivals"
_UVLOOP = "uvloop==0.23.0"
_CLIENT = ("redis==8.1.0", "hiredis==3.5.0")

_ALL = [
    Rival(
        name="taskiq",
        packages=("taskiq[orjson]==0.13.0", "taskiq-redis==1.2.4", _UVLOOP, *_CLIENT),
        command=f"taskiq worker {_HERE}.with_taskiq:broker --workers 1 --max-async-tasks 64 --max-prefetch 64"
        " --no-parse --log-level WARNING",
        setting="RedisStreamBroker without results, 1 process, 64 tasks, 64 prefetched, no parsing, orjson, uvloop",
        documentation="https://taskiq-python.github.io/guide/cli.html",
    ),
    Rival(
        name="saq",
        packages=("saq[hiredis,redis]==0.26.4", _UVLOOP, "redis==7.4.1", "hiredis==3.5.0", "typing_extensions==4.16.0"),
        command=f"saq {_HERE}.with_saq.settings",
        setting="concurrency 64, no results (ttl -1), no time limit, hiredis, uvloop",
        documentation="https://saq-py.readthedocs.io/en/latest/",
    ),
    Rival(
        name="arq",
        packages=("arq[hiredis]==0.28.0", _UVLOOP, "redis==5.3.1", "hiredis==3.5.0"),
        command=f"arq {_HERE}.with_arq.WorkerSettings",
        setting="max_jobs 64, poll_delay 0, no results, no log of them, hiredis, uvloop",
        documentation="https://arq-docs.helpmanual.io/#arq.worker.Worker",
    ),
    Rival(
        name="streaq",
        packages=("streaq==7.2.0", _UVLOOP, "coredis==6.9.0"),
        command=f"streaq run {_HERE}.with_streaq:worker",
        setting="concurrency 64 and as many prefetched, no results, silent, asyncio with uvloop, coredis optimized",
        documentation="https://streaq.readthedocs.io/en/latest/worker.html",
    ),
    Rival(
        name="dramatiq",
        packages=("dramatiq==2.2.1", *_CLIENT),
        command=f"dramatiq {_HERE}.with_dramatiq --processes 1 --threads 64",
        setting="1 process, 64 threads, a plain function, no middleware (so no retries or limits), 1000 prefetched",
        documentation="https://dramatiq.io/advanced.html#customizing-middleware",
        variables={"dramatiq_queue_prefetch": "1000"},
    ),
    Rival(
        name="celery",
        packages=("celery[redis]==5.7.0", *_CLIENT),
        command=f"celery --app {_HERE}.with_celery worker --pool threads --concurrency 64 --loglevel WARNING"
        " --without-gossip --without-mingle --without-heartbeat",
        setting="64 threads, a plain function, results ignored, no rate limits, no gossip, mingle or heartbeat",
        documentation="https://docs.celeryq.dev/en/stable/userguide/optimizing.html",
    ),
    Rival(
        name="rq",
        packages=("rq==3.0.0", *_CLIENT),
        command="rq worker --worker-class rq.SimpleWorker --serializer json --burst --quiet --url {store}",
        setting="SimpleWorker (one job after the other), burst, a plain function, no results, no time limit, JSON",
        documentation="https://github.com/rq/rq/blob/master/docs/benchmark.md",
    ),
]
RIVALS = {rival.name: rival for rival in _ALL}

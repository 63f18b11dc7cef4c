"""Thousands of workers that wait over HTTP are cheap; `make bench` measures five thousand, and the time."""

from pathlib import Path

from loadtest.bench.parked import measure

from ..stores import Server
from .clients import API_KEY
from .processes import Gateway

WORKERS = 1000
MOST_BYTES_EACH = 40_000
MOST_CONNECTIONS = 16


async def test_parked_workers_share_the_store_s_connections(tmp_path: Path, own_server: Server) -> None:
    gateway = Gateway(
        tmp_path / "gateway", own_server.url, api_keys=API_KEY, endpoints="parked", worker_keys=f"parked:{API_KEY}"
    )
    figures = await measure(gateway.url, gateway.pid, "parked", API_KEY, own_server.url, WORKERS, jobs=20)
    gateway.stop()
    assert figures.store_connections <= MOST_CONNECTIONS
    assert figures.bytes_each < MOST_BYTES_EACH

"""Thousands of workers that wait over HTTP are cheap; `make bench` measures five thousand, and the time."""

from pathlib import Path

from loadtest.parked import measure

from ..stores import Server
from .clients import API_KEY
from .conftest import client_of
from .processes import Gateway

WORKERS = 1000
MOST_BYTES_EACH = 40_000
MOST_CONNECTIONS = 16


async def test_parked_workers_share_the_store_s_connections(tmp_path: Path, own_server: Server) -> None:
    gateway = Gateway(tmp_path / "gateway", own_server.url, api_keys=API_KEY)
    async with client_of(gateway) as http:
        worker_key = (await http.post("/v1/endpoints", json={"id": "parked"})).json()["workerKey"]
    figures = await measure(gateway.url, "parked", API_KEY, worker_key, own_server.url, gateway.pid, WORKERS, jobs=20)
    gateway.stop()
    assert figures.store_connections <= MOST_CONNECTIONS
    assert figures.bytes_each < MOST_BYTES_EACH

"""Tenants, each with endpoints of its own, and their answers without what differs from one time to the next."""

import re
from dataclasses import dataclass, field
from typing import Any

import httpx

from ..clients import bearer

NOBODY = "https://nobody.invalid/hidden"
"""Where webhooks go to: a name that there is not, RFC 6761."""

RAW_JOBS = {"Accept": "application/x-runlane-jobs"}
_CHANGING = [
    (r'("(?:createdAt|expiresAt|created_at|updated_at)":)"[^"]*"', r'\1"TIME"'),
    (
        r'("(?:delayTime|executionTime|lastSeen|lease_ms|created_at|updated_at|timestamp)":)(?:[0-9]+|"[^"]*")',
        r'\1"TIME"',
    ),
    (r'("(?:startedAt|started_at|last_beat)":)[0-9]+', r'\1"TIME"'),
    (r'("key":|"workerKey":)"rlw?_[\w-]+"', r'\1"SECRET"'),
    (r'("secrets":)\[[^]]*\]', r'\1"SECRETS"'),
    (r'("next":)"[^"]*"', r'\1"TIME"'),
    (r'"redis://[^"]*"', '"URL"'),
]


@dataclass
class Answer:
    """What can be compared: the status, the headers and the body."""

    status: int
    headers: dict[str, str]
    body: str


@dataclass
class Tenant:
    """A client with an admin key, and the ids that it has made, by what they stand for."""

    http: httpx.AsyncClient
    ids: dict[str, str] = field(default_factory=dict)

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A request that has to be served."""
        response = await self.http.request(method, path, **options)
        assert response.is_success, (method, path, response.text)
        return response

    async def make(self, endpoint: str, **fields: Any) -> str:
        """Makes an endpoint and returns the key of its workers."""
        return str((await self.ask("POST", "/v1/endpoints", json={"id": endpoint, **fields})).json()["workerKey"])

    async def settle(self, endpoint: str) -> None:
        """An endpoint with a job in each of three states, chunks and a webhook of one, a worker, a key, and a vault."""
        path = f"/v2/{endpoint}"
        self.ids |= {"endpoint": endpoint, "worker": "w1", "worker_key": await self.make(endpoint)}
        self.ids["key"] = (await self.ask("POST", "/v1/keys", json={"name": "mine"})).json()["id"]
        for name in ("failed", "job", "queued"):
            body = {"input": f"hidden {name}"} | ({"webhook": NOBODY} if name == "failed" else {})
            self.ids[name] = (await self.ask("POST", f"{path}/run", json=body)).json()["id"]
        for name in ("failed", "job"):
            taken = (await self.ask("GET", f"{path}/job-take/w1?wait=0")).json()
            assert taken["id"] == self.ids[name]
            await self.ask("POST", f"{path}/job-stream/w1/{self.ids[name]}", json={"output": "hidden chunk"})
            if name == "failed":
                await self.ask("POST", f"{path}/job-done/w1/{self.ids[name]}", json={"error": "hidden error"})
        (delivery,) = await self.deliveries()
        self.ids |= {"delivery": delivery["id"], "vault": f"v-{endpoint}", "entry": "MINE"}
        await self.ask("POST", "/api/vaults", json={"name": self.ids["vault"], "description": "hidden words"})
        entry = {"key": "MINE", "value": "hidden value", "is_secret": False}
        await self.ask("POST", f"/api/vaults/{self.ids['vault']}/entries", json=entry)

    async def deliveries(self) -> list[dict[str, Any]]:
        """Those of the endpoint's webhooks, which go on by themselves."""
        found = (await self.ask("GET", f"/v2/{self.ids['endpoint']}/webhooks")).json()
        return [{name: each[name] for name in ("id", "job", "url")} for each in found["webhooks"]]

    async def view(self) -> dict[str, Any]:
        """All that its owner sees of the endpoint, without moving anything."""
        path, ids = f"/v2/{self.ids['endpoint']}", self.ids
        seen = [f"{path}/{name}" for name in ("health", "requests", "workers", "worker-env")]
        seen += [f"{path}/status/{ids[name]}" for name in ("failed", "job", "queued")]
        seen += [f"/v1/endpoints/{ids['endpoint']}", "/v1/endpoints", "/v1/keys", f"/v1/keys/{ids['key']}"]
        seen += ["/api/vaults", f"/api/vaults/{ids['vault']}"]
        found = {path: changeless((await self.ask("GET", path)).text, {}) for path in seen}
        events = await self.ask("GET", f"{path}/stream/{ids['failed']}", headers={"Accept": "text/event-stream"})
        return found | {"events": changeless(events.text, {}), "deliveries": await self.deliveries()}


def changeless(text: str, names: dict[str, str]) -> str:
    """The text without times and secrets, and with each id of `names` as what it stands for."""
    for id, name in names.items():
        text = text.replace(id, f"<{name}>")
    for pattern, by in _CHANGING:
        text = re.sub(pattern, by, text)
    return text


def answer_of(response: httpx.Response, names: dict[str, str]) -> Answer:
    """The answer, likewise. The length of the body goes with its times, and each request has an id of its own."""
    left_out = {"date", "content-length", "x-request-id"}
    headers = {name: changeless(value, names) for name, value in response.headers.items() if name not in left_out}
    return Answer(response.status_code, headers, changeless(response.text, names))


def worker_client(http: httpx.AsyncClient, key: str) -> httpx.AsyncClient:
    """A client of the same gateway with a worker's key."""
    return httpx.AsyncClient(base_url=http.base_url, headers=bearer(key), timeout=30)

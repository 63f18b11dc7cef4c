"""Two tenants in one store see what each would see if it had a store to itself, whatever both do, in any order.

A sequence of requests of both is sent to one gateway; then each tenant's part of it to a gateway and a store in which
the other does not exist. The answers must be the same. Ids that a tenant makes differ, so they are compared by their
numbers; ids of the other tenant stand in the requests as they are.
"""

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ...stores import Server, valkey
from ..clients import bearer
from ..processes import Gateway
from .tenants import RAW_JOBS, Answer, answer_of

KEYS = {"one": "rl-one", "two": "rl-two"}
SETTINGS = {"rate_limits": "off", "failed_logins": "0", "audit_log": "off", "openai_wait_seconds": "0.1"}
STEPS = 40

Place = str
"""A gateway: that of both tenants, or that of one alone."""


class Step(NamedTuple):
    """A request. `whose`: whose ids it names; `number`: which of those that were made, counted from the last one;
    `endpoint`: which of the ids that both use."""

    tenant: str
    operation: str
    whose: str
    number: int
    endpoint: int
    worker: str
    value: int


# What is sent, with the names of ids in it. What waits is left out, and so is what depends on the time.
OPERATIONS = {
    "run": ("POST", "/v2/{endpoint}/run", {"input": "{value}"}),
    "run once": ("POST", "/v2/{endpoint}/run", {"input": "{value}"}),
    "status": ("GET", "/v2/{endpoint}/status/{job}", None),
    "lengthen": ("GET", "/v2/{endpoint}/status/{job}?ttl=60000", None),
    "events": ("GET", "/v2/{endpoint}/stream/{job}?from=0", None),
    "cancel": ("POST", "/v2/{endpoint}/cancel/{job}", None),
    "retry": ("POST", "/v2/{endpoint}/retry/{job}", None),
    "purge": ("POST", "/v2/{endpoint}/purge-queue", None),
    "health": ("GET", "/v2/{endpoint}/health", None),
    "requests": ("GET", "/v2/{endpoint}/requests", None),
    "webhooks": ("GET", "/v2/{endpoint}/webhooks", None),
    "workers": ("GET", "/v2/{endpoint}/workers", None),
    "register": ("POST", "/v2/{endpoint}/workers", {"id": "{worker}", "link": "http"}),
    "register at the store": ("POST", "/v2/{endpoint}/workers", {"id": "{worker}"}),
    "leave": ("DELETE", "/v2/{endpoint}/workers/{worker}", None),
    "take": ("GET", "/v2/{endpoint}/job-take/{worker}?wait=0", None),
    "take more": ("GET", "/v2/{endpoint}/job-take-batch/{worker}?wait=0&batch_size=3", None),
    "stops": ("GET", "/v2/{endpoint}/job-stop/{worker}?wait=0", None),
    "chunk": ("POST", "/v2/{endpoint}/job-stream/{worker}/{job}", {"output": "{value}"}),
    "done": ("POST", "/v2/{endpoint}/job-done/{worker}/{job}", {"output": "{value}"}),
    "progress": ("POST", "/v2/{endpoint}/job-done/{worker}/{job}", {"status": "IN_PROGRESS", "output": "{value}"}),
    "fail": ("POST", "/v2/{endpoint}/job-done/{worker}/{job}", {"error": "{value}"}),
    "lose": ("POST", "/v2/{endpoint}/job-lost/{worker}/{job}", {"error": "{value}"}),
    "give back": ("POST", "/v2/{endpoint}/job-return/{worker}", {"attempts": [], "number": 1}),
    "ping": ("GET", "/v2/{endpoint}/ping/{worker}?job_id={job}", None),
    "make": ("POST", "/v1/endpoints", {"id": "{endpoint}"}),
    "list": ("GET", "/v1/endpoints", None),
    "show": ("GET", "/v1/endpoints/{endpoint}", None),
    "change": ("PATCH", "/v1/endpoints/{endpoint}", {"attempts": 2}),
    "delete": ("DELETE", "/v1/endpoints/{endpoint}", None),
    "make a key": ("POST", "/v1/keys", {"name": "{value}", "scopes": ["read"]}),
    "show a key": ("GET", "/v1/keys/{key}", None),
    "revoke a key": ("DELETE", "/v1/keys/{key}", None),
    "rotate a key": ("POST", "/v1/keys/{key}/rotate", {"overlapSeconds": 0}),
    "list the keys": ("GET", "/v1/keys", None),
}  # fmt: skip
ONLY_OF_ANOTHER = {"events"}
"""Of one's own they may wait."""

IN_ORDER_OF_TIME = {"requests", "workers", "list the keys"}
"""What came within one ms stands in any order."""

OFTEN = ["run", "run", "take", "take", "chunk", "done", "make"]
LOOKS = ["health", "requests", "workers", "list", "show", "list the keys"]

OWNERS = ["own", "own", "other", "no"]

steps = st.builds(
    Step, st.sampled_from(list(KEYS)), st.sampled_from([*OPERATIONS, *OFTEN]), st.sampled_from(OWNERS),
    st.integers(0, 3), st.sampled_from([0, 0, 0, 1]), st.sampled_from(["w1", "w1", "w2"]), st.integers(0, 3),
)  # fmt: skip


PATTERNS = {"job": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "key": r"(?<!\w)k[0-9a-f]{16}"}


class Made:
    """The ids that a tenant has made at one place, by their kinds, in their order."""

    def __init__(self) -> None:
        self.ids: dict[str, list[str]] = {"job": [], "key": []}

    def learn(self, response: httpx.Response) -> None:
        """Takes the ids of an answer."""
        for kind, pattern in PATTERNS.items():
            for id in re.findall(pattern, response.text):
                if id not in self.ids[kind] and response.is_success:
                    self.ids[kind].append(id)

    @property
    def names(self) -> dict[str, str]:
        """What to call them in a comparison."""
        return {id: f"{kind} {number}" for kind, ids in self.ids.items() for number, id in enumerate(ids)}


class Places:
    """A gateway with both tenants, and one for each of them alone, each with a store of its own."""

    def __init__(self, folder: Path) -> None:
        self._stores: list[Server] = []
        self._gateways: list[Gateway] = []
        self._clients: dict[tuple[Place, str], httpx.Client] = {}
        for place, tenants in (("both", list(KEYS)), *((tenant, [tenant]) for tenant in KEYS)):
            self._stores.append(Server(folder / place, valkey()))
            self._stores[-1].start()
            keys = ",".join(f"{tenant}:{KEYS[tenant]}" for tenant in tenants)
            self._gateways.append(Gateway(folder / place, self._stores[-1].url, admin_keys=keys, **SETTINGS))
            for tenant in tenants:
                base, headers = self._gateways[-1].url, bearer(KEYS[tenant])
                self._clients[place, tenant] = httpx.Client(base_url=base, headers=headers, timeout=30)

    def client(self, place: Place, tenant: str) -> httpx.Client:
        """The tenant at the place."""
        return self._clients[place, tenant]

    def stop(self) -> None:
        """Ends all of it."""
        for client in self._clients.values():
            client.close()
        for running in (*self._gateways, *self._stores):
            running.stop()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    places = Places(tmp_path_factory.mktemp("apart"))
    yield places
    places.stop()


class Story:
    """One sequence, with endpoints of its own."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._endpoints = [f"t-{uuid.uuid4().hex[:12]}" for _ in range(2)]
        self._never = {"job": str(uuid.uuid4()), "key": f"k{uuid.uuid4().hex[:16]}"}
        self._made = {(place, tenant): Made() for place in ("both", *KEYS) for tenant in KEYS}

    def take(self, place: Place, step: Step, others: dict[str, str]) -> tuple[Answer, dict[str, str]]:
        """One step. `others`: the ids of the other tenant that it names, or none to have them found. Returns the answer
        and those ids."""
        made = self._made[place, step.tenant]
        if not others:
            others = self._others(step)
        ids = {"endpoint": self._endpoints[step.endpoint], "worker": step.worker, "value": str(step.value)}
        for kind, known in made.ids.items():
            ids[kind] = known[-1 - step.number] if step.whose == "own" and len(known) > step.number else others[kind]
        method, path, body = OPERATIONS[step.operation]
        if step.operation in ONLY_OF_ANOTHER:
            ids["job"] = others["job"]
        headers = {"Idempotency-Key": step.worker} if step.operation == "run once" else {}
        headers |= {"Accept": "text/event-stream"} if step.operation == "events" else {}
        headers |= RAW_JOBS if step.operation == "give back" else {}
        body = body and {name: _filled(value, ids) for name, value in body.items()}
        http = self._places.client(place, step.tenant)
        response = http.request(method, path.format(**ids), json=body, headers=headers)
        made.learn(response)
        answer = answer_of(response, made.names)
        if step.operation in IN_ORDER_OF_TIME and response.is_success:
            (listed,) = [value for value in json.loads(answer.body).values() if isinstance(value, list)]
            answer.body = str(sorted(map(str, listed)))
        return answer, others

    def look(self, place: Place, tenant: str) -> list[Answer]:
        """All that a tenant sees at the end."""
        found = [
            self.take(place, Step(tenant, look, "no", 0, endpoint, "w1", 0), self._never)[0]
            for look in LOOKS for endpoint in range(2)
        ]  # fmt: skip
        known = self._made[place, tenant].ids["job"]
        return found + [
            self.take(place, Step(tenant, "status", "own", number, endpoint, "w1", 0), self._never)[0]
            for number in range(len(known)) for endpoint in range(2)
        ]  # fmt: skip

    def end(self) -> None:
        """Removes what it has made."""
        for (place, tenant), made in self._made.items():
            if place in ("both", tenant):
                http = self._places.client(place, tenant)
                for id in self._endpoints:
                    http.delete(f"/v1/endpoints/{id}")
                for id in made.ids["key"]:
                    http.delete(f"/v1/keys/{id}")
                assert http.get("/v1/keys").json() == {"keys": []}

    def _others(self, step: Step) -> dict[str, str]:
        (other,) = KEYS.keys() - {step.tenant}
        known = self._made["both", other].ids
        return {
            kind: ids[-1 - step.number] if step.whose == "other" and len(ids) > step.number else self._never[kind]
            for kind, ids in known.items()
        }


def _filled(value: Any, ids: dict[str, str]) -> Any:
    return ids.get(value[1:-1], value) if isinstance(value, str) else value


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, min_size=5, max_size=STEPS))
def test_each_sees_what_it_would_see_alone(places: Places, sequence: list[Step]) -> None:
    sequence = [Step(tenant, "make", "no", 0, 0, "w1", 0) for tenant in KEYS] + sequence
    story = Story(places)
    try:
        together = [story.take("both", step, {}) for step in sequence]
        ends = {tenant: story.look("both", tenant) for tenant in KEYS}
        for step, (answer, others) in zip(sequence, together, strict=True):
            assert story.take(step.tenant, step, others)[0] == answer, step
        for tenant in KEYS:
            assert story.look(tenant, tenant) == ends[tenant]
    finally:
        story.end()

"""The server does what its OpenAPI document says: schemathesis sends requests that are by it, and such that are not."""

import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance

from ..stores import Server
from .access.tenants import NOBODY
from .access.test_tenants import ASKS, PUBLIC
from .clients import bearer
from .processes import Gateway

KEY = "rl-schema"
TENANT = "schema"
POLLS = ("/v2/{endpoint}/job-take", "/v2/{endpoint}/job-stop")
"""What they refuse takes a second, since RunPod's SDK would come again at once; test_worker_calls.py has that."""

REPORTS = ("/v2/{endpoint}/job-stream", "/v2/{endpoint}/job-done")
"""What of these cannot be taken makes the job FAILED, and the worker is not to say it again."""

CREATIONS = (
    "/api/cli/configs", "/workers/queues", "/queue/add", "/queue/add-batch", "/api/cli/tasks", "/v2/{endpoint}/workers",
)  # fmt: skip
"""Of these, fields go together in ways that no schema says."""


@pytest.fixture(scope="module")
def place(backing: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Place"]:
    gateway = Gateway(
        tmp_path_factory.mktemp("openapi"), backing.url, admin_keys=f"{TENANT}:{KEY}", rate_limits="off",
        failed_logins="0", audit_log="off", poll_seconds="1", openai_wait_seconds="5",
        vault_master_keys="A" * 43 + "=", queue_files_tenant=TENANT,
    )  # fmt: skip
    place = Place(gateway)
    yield place
    place.close()
    gateway.stop()


class Place:
    """A gateway with an endpoint whose jobs a worker does at once, and one that has none."""

    def __init__(self, gateway: Gateway) -> None:
        self.http = httpx.Client(base_url=gateway.url, headers=bearer(KEY), timeout=30)
        self._ends = threading.Event()
        self._worker = threading.Thread(target=self._work)
        self.ids = {"worker": "w1", "endpoint": "busy", "queue": "spare.default", "vault": "kept", "entry": "A"}
        for endpoint in ("busy", "idle", "spare"):
            self.made("/v1/endpoints", id=endpoint)
        self.ids["job"] = self.made("/v2/busy/run", input=1, webhook=NOBODY)["id"]
        self._worker.start()
        self.http.post(f"/v2/busy/status-sync/{self.ids['job']}")

    def made(self, path: str, **body: Any) -> dict[str, Any]:
        """What the answer to a POST says."""
        answer = self.http.post(path, json=body)
        assert answer.is_success, answer.text
        return dict(answer.json())

    def aim(self, case: Case) -> None:
        """Has a request be about what there is, and not wait long, where it is not about to be wrong in this."""
        if case.path_parameters and not case.meta.is_negative_at(ParameterLocation.PATH):
            ids = self._ids_for(case.operation.label)
            case.path_parameters.update({name: ids[name] for name in case.path_parameters if name in ids})
        shortest = "0" if "/job-" in case.operation.path else "1000"
        takes_time = "wait" in {parameter.name for parameter in case.operation.query}
        if takes_time and not case.meta.is_negative_at(ParameterLocation.QUERY):
            case.query = {**(case.query or {}), "wait": shortest}
        if "force" in {parameter.name for parameter in case.operation.query} and case.operation.method == "delete":
            case.query = {**(case.query or {}), "force": "true"}
        if isinstance(case.body, dict | list) and not case.meta.is_negative_at(ParameterLocation.BODY):
            case.body = plain(case.body)

    def _ids_for(self, label: str) -> dict[str, Any]:
        ids = {"path": "v1/chat/completions", **self.ids}
        if label.endswith("/vaults/{vault}") or "{entry}" in label:  # which may be deleted
            self.http.post("/api/vaults", json={"name": "kept"})
            self.http.post("/api/vaults/kept/entries", json={"key": "A", "value": "b"})
        if "{task}" in label:
            ids["task"] = self.made("/queue/add", queue="spare", data=1)["info"]["id"]
        if "/job-" in label or "/ping" in label:
            ids["endpoint"] = "idle"
        if label.startswith("DELETE /v1/endpoints"):
            ids["endpoint"] = self.made("/v1/endpoints")["id"]
        if "/v1/keys/{key}" in label:
            ids["key"] = self.made("/v1/keys")["id"]
        if "{delivery}" in label:
            ids["delivery"] = self.http.get("/v2/busy/webhooks").json()["webhooks"][0]["id"]
        return ids

    def close(self) -> None:
        self._ends.set()
        self._worker.join()
        for endpoint in self.http.get("/v1/endpoints").json():
            self.http.delete(f"/v1/endpoints/{endpoint['id']}")
        self.http.close()

    def _work(self) -> None:
        with httpx.Client(base_url=self.http.base_url, headers=bearer(KEY), timeout=30) as worker:
            while not self._ends.is_set():
                taken = worker.get("/v2/busy/job-take/w1")
                if taken.status_code == 200:
                    worker.post(f"/v2/busy/job-done/w1/{taken.json()['id']}", json={"output": {"done": True}})


@pytest.fixture(scope="module")
def api(place: Place) -> BaseSchema:
    """The document that the gateway serves."""
    config = SchemathesisConfig.from_dict({"seed": 7})
    schema = schemathesis.openapi.from_dict(closed(place.http.get("/openapi.json").json()), config=config)
    schema.config.update(base_url=str(place.http.base_url))
    return schema


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("operation", ASKS, ids=" ".join)
def test_requests(api: BaseSchema, place: Place, operation: tuple[str, str], mode: GenerationMode) -> None:
    method, path = operation
    if path in (*PUBLIC, "/health", "/healthz") and mode.is_negative:
        pytest.skip("there is nothing in it that could be wrong")
    if ASKS[operation].is_endless:
        pytest.skip("its answer has no end; what it takes is as of the same path without the stream")
    polls = path.startswith(POLLS)

    @settings(
        max_examples=4 if polls else 7, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=api[path.replace(":path", "")][method].as_strategy(generation_mode=mode))
    def send(case: Case) -> None:
        place.aim(case)
        excluded = [ignored_auth] * (polls or mode.is_negative) + [negative_data_rejection] * path.startswith(REPORTS)
        excluded += [positive_data_acceptance] * (path in CREATIONS)
        case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"}, excluded_checks=excluded)

    send()


def plain(value: Any) -> Any:
    """A body with what JSON Schema does not say: where webhooks may go to, how the fields of a queue go together, and
    that whole numbers are written as such: 5.0 is an integer by JSON Schema, and none to msgspec."""
    if isinstance(value, dict):
        return {
            name: NOBODY if name in ("webhook", "webhookV2") and each else plain(each)
            for name, each in value.items()
            if name != "queue" or not isinstance(each, dict)
        }
    if isinstance(value, list):
        return [plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def closed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with answers that have no other fields than those that it tells of."""
    schemas = document["components"]["schemas"]
    answers, requests = set[str](), set[str]()
    for item in document["paths"].values():
        for operation in item.values():
            answers |= referred(operation["responses"], schemas)
            requests |= referred(operation.get("requestBody", {}), schemas)
    for name in answers - requests - {"JobGiven"}:  # which has what its client gave it
        if "properties" in schemas[name]:
            schemas[name].setdefault("additionalProperties", False)
    return document


def referred(value: Any, schemas: dict[str, Any]) -> set[str]:
    """The names of the schemas that a part of the document refers to."""
    found = {name.rpartition("/")[2] for name in re.findall(r'"\$ref": ?"([^"]+)"', json.dumps(value))}
    return found.union(*(referred(schemas[name], schemas) for name in found))

"""No tenant reaches what is another's, or learns that it is there; though both may call their own by the same ids."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx
import pytest
import redis
from redis.exceptions import NoPermissionError

from gateway.access.credentials import Credentials
from gateway.app import App
from gateway.engine import keys
from gateway.settings import Settings
from gateway.store import LIBRARY, Store, open_store

from ...stores import Server
from ..clients import Worker
from ..conftest import client_of
from ..processes import Gateway
from .tenants import RAW_JOBS, Answer, Tenant, answer_of, worker_client

SETTINGS = {
    "admin_keys": "acme:rl-acme,acme-2:rl-acme-2,rl-default", "rate_limits": "off", "failed_logins": "0",
    "audit_log": "off", "openai_wait_seconds": "0.3", "vault_master_keys": "A" * 43 + "=", "queue_files_tenant": "acme",
}  # fmt: skip
TENANTS = {"acme": "rl-acme", "acme-2": "rl-acme-2", "default": "rl-default"}
PAIRS = [("acme", "acme-2"), ("acme-2", "acme"), ("default", "acme"), ("acme", "default")]


@pytest.fixture(scope="module")
def gateways(backing: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Gateway]]:
    """Two gateways over one store."""
    started = [Gateway(tmp_path_factory.mktemp("tenants"), backing.url, **SETTINGS) for _ in range(2)]
    yield started[0], started[1]
    for gateway in started:
        gateway.stop()


@pytest.fixture
async def of(gateways: tuple[Gateway, Gateway]) -> AsyncIterator[Any]:
    """Makes tenants by their names, at the one gateway or the other."""
    clients: list[httpx.AsyncClient] = []

    def make(name: str, gateway: int = 0) -> Tenant:
        clients.append(client_of(gateways[gateway], TENANTS[name]))
        return Tenant(clients[-1])

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
async def acme(of: Any, endpoint: str) -> AsyncIterator[Tenant]:
    """The owner, whose endpoint has jobs, a worker and a key."""
    tenant = of("acme")
    await tenant.settle(endpoint)
    yield tenant
    await tenant.http.delete(f"/v1/endpoints/{endpoint}")
    await tenant.http.delete(f"/v1/keys/{tenant.ids['key']}")
    await tenant.http.delete(f"/api/vaults/{tenant.ids['vault']}")


@pytest.fixture
async def other(of: Any) -> AsyncIterator[Tenant]:
    """Another tenant, at the same gateway."""
    tenant = of("acme-2")
    yield tenant
    for found in (await tenant.http.get("/v1/endpoints")).json():
        await tenant.http.delete(f"/v1/endpoints/{found['id']}")
    for found in (await tenant.http.get("/api/vaults")).json()["vaults"]:
        await tenant.http.delete(f"/api/vaults/{found['name']}")


class Ask(NamedTuple):
    """What is sent for an operation, so that its owner would be served."""

    body: Any = None
    query: str = ""
    job: str = "job"
    """Which of the owner's jobs it is about."""
    headers: Mapping[str, str] = MappingProxyType({})
    is_endless: bool = False


_V2 = "/v2/{endpoint}"
PUBLIC = [
    "/openapi.json", "/swagger", "/swagger/", "/swagger/doc.json", "/swagger/index.html", "/swagger/initializer.js",
    "/swagger/swagger-ui.css", "/swagger/swagger-ui-bundle.js", "/swagger/swagger-ui-standalone-preset.js",
]  # fmt: skip
"""What is the same for everyone."""
ASKS = {
    ("POST", f"{_V2}/run"): Ask({"input": 1}),
    ("POST", f"{_V2}/runsync"): Ask({"input": 1}, "wait=1000"),
    ("GET", f"{_V2}/status/{{job}}"): Ask(query="ttl=10000"),
    ("POST", f"{_V2}/status/{{job}}"): Ask(),
    ("GET", f"{_V2}/status-sync/{{job}}"): Ask(job="failed"),
    ("POST", f"{_V2}/status-sync/{{job}}"): Ask(job="failed"),
    ("GET", f"{_V2}/stream/{{job}}"): Ask(job="failed"),
    ("POST", f"{_V2}/stream/{{job}}"): Ask(job="failed", headers={"Accept": "text/event-stream"}),
    ("POST", f"{_V2}/cancel/{{job}}"): Ask(),
    ("POST", f"{_V2}/retry/{{job}}"): Ask(job="failed"),
    ("POST", f"{_V2}/purge-queue"): Ask(),
    ("GET", f"{_V2}/health"): Ask(),
    ("GET", f"{_V2}/requests"): Ask(),
    ("GET", f"{_V2}/workers"): Ask(),
    ("POST", f"{_V2}/workers"): Ask({"id": "w1"}),
    ("GET", f"{_V2}/workers/{{worker}}"): Ask(),
    ("DELETE", f"{_V2}/workers/{{worker}}"): Ask(),
    ("GET", f"{_V2}/workers/{{worker}}/logs"): Ask(),
    **{
        ("GET", f"{prefix}/workers{path}"): Ask()
        for prefix in ("", "/api/cli")
        for path in ("", "/{endpoint}:{worker}", "/{endpoint}:{worker}/logs")
    },
    **{
        ("GET", f"{prefix}/workers/{{endpoint}}:{{worker}}/logs/stream"): Ask(is_endless=True)
        for prefix in ("", "/api/cli")
    },
    ("GET", f"{_V2}/worker-env"): Ask(),
    ("GET", f"{_V2}/job-take/{{worker}}"): Ask(query="wait=0&job_in_progress=0"),
    ("GET", f"{_V2}/job-take-batch/{{worker}}"): Ask(query="wait=0&batch_size=5", headers=RAW_JOBS),
    ("GET", f"{_V2}/job-stop/{{worker}}"): Ask(query="wait=0"),
    ("POST", f"{_V2}/job-stream/{{worker}}/{{job}}"): Ask({"output": "mine"}),
    ("POST", f"{_V2}/job-done/{{worker}}/{{job}}"): Ask({"output": "mine"}),
    ("POST", f"{_V2}/job-lost/{{worker}}/{{job}}"): Ask({"error": "mine"}),
    ("POST", f"{_V2}/job-return/{{worker}}"): Ask({"attempts": []}),
    ("GET", f"{_V2}/ping/{{worker}}"): Ask(query="status=unhealthy"),
    ("POST", f"{_V2}/tell/{{worker}}"): Ask({"run": "a", "lines": [[0, "stdout", "mine"]]}),
    ("POST", f"{_V2}/ping/{{worker}}"): Ask({"gone_ms": 1000, "concurrency": 9, "state": "ready"}),
    **{
        (method, f"{_V2}/openai/{{path:path}}"): Ask(body)
        for method, body in (("GET", None), ("POST", {}), ("PUT", {"stream": True}), ("PATCH", {}), ("DELETE", {}))
    },
    ("GET", f"{_V2}/webhooks"): Ask(),
    ("GET", f"{_V2}/webhooks/{{delivery}}"): Ask(),
    ("POST", f"{_V2}/webhooks/{{delivery}}/retry"): Ask(),
    ("GET", "/v1/webhook-secrets"): Ask(),
    ("POST", "/v1/webhook-secrets"): Ask({"overlapSeconds": 0}),
    ("POST", "/v1/endpoints"): Ask({"id": "{endpoint}"}),
    ("GET", "/v1/endpoints"): Ask(),
    ("GET", "/v1/endpoints/{endpoint}"): Ask(),
    ("PATCH", "/v1/endpoints/{endpoint}"): Ask({"attempts": 9}),
    ("DELETE", "/v1/endpoints/{endpoint}"): Ask(),
    ("POST", "/v1/endpoints/{endpoint}/update"): Ask({"attempts": 9}),
    ("POST", "/v1/keys"): Ask({"endpoints": ["{endpoint}"], "expiresInSeconds": 60}),
    ("GET", "/v1/keys"): Ask(),
    ("GET", "/v1/keys/{key}"): Ask(),
    ("DELETE", "/v1/keys/{key}"): Ask(),
    ("POST", "/v1/keys/{key}/rotate"): Ask({"overlapSeconds": 0}),
    ("GET", "/api/vaults"): Ask(),
    ("POST", "/api/vaults"): Ask({"name": "{endpoint}"}),
    ("GET", "/api/vaults/{vault}"): Ask(),
    ("DELETE", "/api/vaults/{vault}"): Ask(),
    ("GET", "/api/vaults/{vault}/entries"): Ask(),
    ("POST", "/api/vaults/{vault}/entries"): Ask({"key": "A", "value": "mine"}),
    ("DELETE", "/api/vaults/{vault}/entries/{entry}"): Ask(),
    ("POST", "/v1/vaults/rotate"): Ask(),
    **{
        (method, f"{base}{path}"): Ask(body)
        for base in ("/api/cli/configs", "/workers/queues")
        for method, path, body in (
            ("GET", "", None), ("POST", "", {"name": "{endpoint}", "priority": 7}), ("DELETE", "/{queue}", None),
            ("POST", "/{queue}/restore", None),
        )
    },
    ("GET", "/api/cli/configs/{queue}"): Ask(),
    ("GET", "/workers/config/{queue}"): Ask(),
    ("POST", "/api/cli/configs/reload"): Ask(),
    ("POST", "/workers/reload"): Ask(),
    ("POST", "/worker/register"): Ask({"queue": "{endpoint}"}),
    ("GET", "/health"): Ask(),
    ("GET", "/healthz"): Ask(),
    ("POST", "/queue/add"): Ask({"queue": "{endpoint}", "data": 1}),
    ("POST", "/queue/add-batch"): Ask({"queue": "{endpoint}", "jobs": [{"data": 1}]}),
    ("GET", "/queue/{task}"): Ask(),
    ("POST", "/api/cli/tasks"): Ask({"queue": "{endpoint}", "data": 1}),
    ("DELETE", "/api/cli/tasks/{task}"): Ask(),
    ("POST", "/api/tasks/{task}/cancel"): Ask(),
    **{
        (method, f"{base}{path}"): ask
        for base in ("/api/cli/queues", "/api/queues")
        for method, path, ask in (
            ("GET", "", Ask()), ("GET", "/{queue}", Ask()), ("DELETE", "/{queue}", Ask(query="force=true")),
            ("POST", "/{queue}/pause", Ask()), ("POST", "/{queue}/unpause", Ask()), ("GET", "/{queue}/tasks", Ask()),
            ("GET", "/{queue}/tasks/{task}", Ask()), ("DELETE", "/{queue}/tasks/{task}", Ask(job="failed")),
            ("POST", "/{queue}/tasks/{task}/run", Ask(job="failed")),
        )
    },
    **{("GET", path): Ask() for path in PUBLIC},
}  # fmt: skip


MAKES_ONE = {("POST", path) for path in ("/v1/endpoints", "/api/vaults", "/api/cli/configs", "/workers/queues")}


async def test_each_operation_that_there_is_has_its_case(backing: Server) -> None:
    app = App(Settings(redis_url=backing.url, insecure=True))
    async with app.connected():
        served = {(method, path) for path, methods in app.served.items() for method in methods}
    assert served == ASKS.keys()


def never(ids: dict[str, str]) -> dict[str, str]:
    """As many ids that there never were, each as long as the one in whose place it stands."""
    return {
        "endpoint": f"t-{uuid.uuid4().hex[:12]}", "worker": "w9", "job": str(uuid.uuid4()), "failed": str(uuid.uuid4()),
        "key": f"k{uuid.uuid4().hex[:16]}", "delivery": f"msg_{uuid.uuid4()}_1",
        "vault": f"v-{uuid.uuid4().hex[:12]}", "entry": "NEVER_WAS",
    }  # fmt: skip


IN_PATHS = ("delivery", "endpoint", "worker", "key", "vault", "entry")


async def asked(tenant: Tenant, operation: tuple[str, str], ids: dict[str, str]) -> Answer:
    """The answer to an operation about these ids, which stand in it by their names."""
    (method, path), ask = operation, ASKS[operation]
    ids = {name: ids[name] for name in IN_PATHS} | {"job": ids[ask.job], "queue": ids["endpoint"]}
    ids["task"] = ids["job"]
    path = re.sub(r"{(\w+)(:path)?}", lambda found: "v1/models" if found[2] else ids[found[1]], path)
    body = ask.body
    if isinstance(body, dict):
        body = {name: _filled(value, ids) for name, value in body.items()}
    options: dict[str, Any] = {"json": body, "headers": ask.headers}
    async with tenant.http.stream(method, f"{path}?{ask.query}", **options) as response:
        if ask.is_endless and response.is_success:
            return Answer(response.status_code, {}, "")
        await response.aread()
    names = {id: name for name, id in ids.items() if name != "worker"}  # too short to be told apart
    if made := re.match(r'{"id":"([^"]+)"', response.text):
        names.setdefault(made[1], "made")
    return answer_of(response, names)


def _filled(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_filled(item, ids) for item in value]
    return ids["endpoint"] if value == "{endpoint}" else value


@pytest.mark.parametrize("operation", [each for each in ASKS if each[1] not in PUBLIC], ids=" ".join)
async def test_another_s_is_answered_as_what_never_was(
    of: Any, acme: Tenant, other: Tenant, operation: tuple[str, str]
) -> None:
    before, elsewhere = await acme.view(), of("acme-2", 1)
    there, nowhere = acme.ids, never(acme.ids)
    answers = [
        await asyncio.gather(*(asked(tenant, operation, ids) for ids in (there, nowhere)))
        for tenant in (other, elsewhere)
    ]
    if operation not in MAKES_ONE:  # of which there is one by now, at the second gateway
        assert answers[0] == answers[1]
    for one, two in answers:
        assert one == two
    if "{" in operation[1]:
        assert one.status == 404
    assert not any("hidden" in answer.body for pair in answers for answer in pair)
    assert await acme.view() == before
    own = await asked(acme, operation, there)
    assert own.status not in (400, 401, 403, 404, 405), own
    assert "{" not in operation[1] or own.status != one.status


@pytest.mark.parametrize(
    "operation",
    [each for each in ASKS if re.search("{(worker|job|task|key|delivery|vault|entry)}", each[1])],
    ids=" ".join,
)
async def test_nor_is_it_reached_through_an_endpoint_of_the_same_id(
    acme: Tenant, other: Tenant, operation: tuple[str, str]
) -> None:
    await other.make(acme.ids["endpoint"])
    before = await acme.view()
    one = await asked(other, operation, acme.ids)
    two = await asked(other, operation, never(acme.ids) | {"endpoint": acme.ids["endpoint"]})
    assert one == two
    assert "hidden" not in one.body
    assert await acme.view() == before


@pytest.mark.parametrize(("mine", "another"), PAIRS)
async def test_two_tenants_with_the_same_ids(of: Any, endpoint: str, mine: str, another: str) -> None:
    tenants = [of(mine, 0), of(another, 1)]
    for tenant in tenants:
        await tenant.settle(endpoint)
    one, two = tenants
    assert one.ids["job"] != two.ids["job"]
    for tenant, stranger in ((one, two), (two, one)):
        view = str(await tenant.view())
        assert not [name for name in ("job", "failed", "queued", "key") if stranger.ids[name] in view]
        assert (await tenant.ask("GET", f"/v2/{endpoint}/health")).json()["jobs"] == {
            "completed": 0, "failed": 1, "inProgress": 1, "inQueue": 1, "retried": 0,
        }  # fmt: skip
    before = await two.view()
    await one.ask("POST", f"/v2/{endpoint}/purge-queue")
    await one.ask("DELETE", f"/v2/{endpoint}/workers/w1")
    await one.ask("DELETE", f"/v1/endpoints/{endpoint}")
    await one.ask("DELETE", f"/v1/keys/{one.ids['key']}")
    assert await two.view() == before
    async with worker_client(two.http, two.ids["worker_key"]) as worker:
        done = await worker.post(f"/v2/{endpoint}/job-done/w1/{two.ids['job']}", json={"output": 2})
    assert done.json() == {"status": "OK"}
    assert (await two.ask("GET", f"/v2/{endpoint}/status/{two.ids['job']}")).json()["output"] == 2
    await two.ask("DELETE", f"/v1/endpoints/{endpoint}")
    await two.ask("DELETE", f"/v1/keys/{two.ids['key']}")


async def test_an_idempotency_key_is_its_tenant_s(acme: Tenant, other: Tenant) -> None:
    endpoint = acme.ids["endpoint"]
    await other.make(endpoint)
    headers = {"Idempotency-Key": "once"}
    jobs = [
        (await tenant.ask("POST", f"/v2/{endpoint}/run", json={"input": input}, headers=headers)).json()["id"]
        for tenant, input in ((acme, 1), (other, 1), (acme, 1), (other, 1))
    ]
    assert jobs[:2] == jobs[2:]
    assert jobs[0] != jobs[1]
    conflict = await other.http.post(f"/v2/{endpoint}/run", json={"input": 2}, headers=headers)
    assert conflict.status_code == 409
    assert jobs[0] not in conflict.text


async def test_a_stream_is_its_tenant_s(acme: Tenant, other: Tenant) -> None:
    endpoint = acme.ids["endpoint"]
    await other.settle(endpoint)
    for tenant in (acme, other):
        await tenant.ask("POST", f"/v2/{endpoint}/cancel/{tenant.ids['job']}")
    for tenant in (other, acme):
        found = (await tenant.ask("GET", f"/v2/{endpoint}/stream/{tenant.ids['job']}")).json()
        assert (found["id"], [chunk["output"] for chunk in found["stream"]]) == (tenant.ids["job"], ["hidden chunk"])


async def test_an_openai_request_is_its_tenant_s(acme: Tenant, other: Tenant) -> None:
    endpoint = acme.ids["endpoint"]
    await other.make(endpoint)
    await acme.ask("POST", f"/v2/{endpoint}/purge-queue")
    path = f"/v2/{endpoint}/openai/v1/chat/completions"
    asking = asyncio.create_task(other.http.post(path, json={"model": "mine"}))
    taken = await other.ask("GET", f"/v2/{endpoint}/job-take/w1?wait=10000")
    assert (await acme.ask("GET", f"/v2/{endpoint}/job-take/w1?wait=0")).status_code == 204
    assert (await acme.http.post(f"/v2/{endpoint}/job-done/w1/{taken.json()['id']}", json={"output": 1})).json() == {
        "status": "STALE", "state": "GONE",
    }  # fmt: skip
    await other.ask("POST", f"/v2/{endpoint}/job-done/w1/{taken.json()['id']}", json={"output": {"mine": 1}})
    assert (await asking).json() == {"mine": 1}


@pytest.mark.parametrize(("mine", "another"), PAIRS)
async def test_a_worker_key_is_good_in_its_tenant(of: Any, endpoint: str, mine: str, another: str) -> None:
    tenants = [of(mine), of(another)]
    for tenant in tenants:
        await tenant.settle(endpoint)
    before = await tenants[0].view()
    async with worker_client(tenants[0].http, tenants[1].ids["worker_key"]) as worker:
        assert (await worker.delete(f"/v2/{endpoint}/workers/w1")).json() == {"returned": 1}
        registered = (await worker.post(f"/v2/{endpoint}/workers", json={"id": "w1"})).json()
        assert (await worker.get(f"/v2/{endpoint}/worker-env")).json()["endpoint"] == endpoint
    assert registered["base"] == keys.base(keys.name_of(another, endpoint))
    assert await tenants[0].view() == before
    for tenant in tenants:
        await tenant.ask("DELETE", f"/v1/endpoints/{endpoint}")
        await tenant.ask("DELETE", f"/v1/keys/{tenant.ids['key']}")


@pytest.mark.parametrize(
    "path",
    ["/v2/acme/{id}/health", "/v2/acme%2F{id}/health", "/v2/acme%2f{id}/status/{job}", "/v2/%2e%2e/acme/{id}/health",
     "/v2/x/../acme%2F{id}/health", "/v2/acme%252F{id}/health", "/v2/{{acme%2F{id}}}/health", "/v2/acme:{id}/health",
     "/v2/acme%00{id}/health", "/v2/*/health", "/v2/%2A/health", "/v2/acme%2F*/health", "/v2/%7Baccess%7D/health",
     "/v1/endpoints/acme%2F{id}", "/v1/endpoints/acme/{id}", "/v1/endpoints/%2Facme%2F{id}",
     "/v1/endpoints/..%2Facme%2F{id}", "/v1/keys/acme%2F{key}", "/v1/keys/..%2Facme%2F{key}", "/v1/keys/%2A",
     "/v1/keys/acme:{key}", "/v2/{id}/workers/*"],
)  # fmt: skip
async def test_no_spelling_leads_to_another_tenant(acme: Tenant, of: Any, path: str) -> None:
    before = await acme.view()
    for name in ("acme-2", "default"):
        for method in ("GET", "POST", "DELETE", "PATCH"):
            response = await of(name).http.request(method, path.format(**acme.ids, id=acme.ids["endpoint"]), json={})
            assert response.status_code in (404, 405), (method, response.text)
    assert await acme.view() == before


@pytest.mark.parametrize(
    "id", ["acme/x", "acme%2Fx", "..", "{}", "*", "a*", "a?", "[a]", "a:b", "{access}", "a b", "a\n", "/x"]
)
async def test_no_endpoint_can_be_named_so_that_it_is_taken_for_another(acme: Tenant, of: Any, id: str) -> None:
    for name in ("acme-2", "default"):
        assert (await of(name).http.post("/v1/endpoints", json={"id": id})).status_code == 400
        assert (await of(name).http.post("/v1/keys", json={"endpoints": [id]})).status_code == 400


# at the store


@pytest.fixture
async def reached(backing: Server) -> AsyncIterator[Store]:
    store = await open_store(backing.url)
    yield store
    await store.close()


NAMES = [
    "default", "access", "a", "a/a", "a/b", "a-a", "a.a/a", "a-a/a", "a/access", "access/a", "default-/a", "ab",
    "a/ab",
]  # fmt: skip
TENANTS_NAMED_ALIKE = ["default", "access", "a", "a-a", "a.a"]
FUNCTIONS = [
    "health", "login x '' 0 0 1", "key_list a", "key_revoke a k", "blocked 10", "leave w1", "vault_list",
    "vault_read v", "vault_set v A x", "vault_delete v",
]  # fmt: skip
KEYS = ["v", "settings", "job:x", "queue:normal", "workers", "worker:w1", "key:x", "keys:a", "news"]
COMMANDS = [
    ("HGET", "{}", "input"), ("HSET", "{}", "a", "b"), ("XADD", "{}", "*", "revoked", "x"), ("UNLINK", "{}"),
    ("XLEN", "{}"), ("SPUBLISH", "{}", "x"), ("SSUBSCRIBE", "{}"),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
async def test_a_worker_s_user_reaches_its_endpoint_and_no_other(reached: Store, backing: Server, name: str) -> None:
    credentials = Credentials(reached, "")
    granted = await credentials.grant(name, "w1")
    assert granted is not None
    bases = [keys.base(other) for other in NAMES if other != name] + [keys.ACCESS, keys.ENDPOINTS, keys.UPKEEP]
    bases += [keys.vaults(tenant) for tenant in TENANTS_NAMED_ALIKE]
    with redis.Redis.from_url(granted["url"]) as store:
        assert store.execute_command("HGET", f"{keys.base(name)}:settings", "x") is None
        for base in bases:
            for key in (base, *(f"{base}:{part}" for part in KEYS)):
                for command in COMMANDS:
                    with pytest.raises(NoPermissionError):
                        store.execute_command(*(part.format(key) for part in command))
            for function in FUNCTIONS:
                called, *arguments = function.split()
                with pytest.raises(redis.ResponseError, match=r"(?i)permission|NOPERM"):
                    store.fcall(f"{LIBRARY}_{called}", 1, base, *arguments)
    await credentials.revoke(name, "w1")


async def test_the_worker_of_an_endpoint_called_access(of: Any, acme: Tenant) -> None:
    default = of("default")
    key = await default.make("access")
    async with worker_client(default.http, key) as http:
        worker = Worker((await http.post("/v2/access/workers", json={"id": "w1"})).json())
    worker.ready()
    for command in (("HGET", f"{worker.base}:keys:acme", acme.ids["key"]), ("XLEN", f"{worker.base}:news")):
        assert not worker.store.execute_command(*command)
    worker.close()
    await default.ask("DELETE", "/v1/endpoints/access")
    assert (await acme.ask("GET", f"/v1/keys/{acme.ids['key']}")).json()["name"] == "mine"


async def test_the_users_of_another_stay_when_an_endpoint_goes(reached: Store) -> None:
    credentials = Credentials(reached, "")
    granted = {name: await credentials.grant(name, "w1") for name in NAMES}
    await credentials.revoke_all("a")

    def works(name: str) -> bool:
        with redis.Redis.from_url(str((granted[name] or {})["url"])) as store:
            try:
                return bool(store.ping())
            except redis.AuthenticationError:
                return False

    assert [name for name in NAMES if not works(name)] == ["a"]
    for name in NAMES:
        await credentials.revoke(name, "w1")

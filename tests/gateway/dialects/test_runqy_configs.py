import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.engine.queue_config import MASK

from ..clients import API_KEY, bearer
from ..conftest import client_of
from ..processes import Gateway

FAMILIES = ["/api/cli/configs", "/workers/queues"]
DEPLOYMENT = {"git_url": "https://git.example/code.git", "startup_cmd": "python main.py"}


@pytest.fixture
async def http(gateway: Gateway, endpoint: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the shared gateway; the endpoint that its tests make goes with them."""
    async with client_of(gateway) as client:
        yield client
        await client.delete(f"/v1/endpoints/{endpoint}")


async def create(http: httpx.AsyncClient, name: str, priority: int = 1, query: str = "", **more: Any) -> dict[str, Any]:
    response = await http.post(f"/api/cli/configs{query}", json={"name": name, "priority": priority, **more})
    assert response.status_code == 201, response.text
    return dict(response.json())


async def queues(http: httpx.AsyncClient, endpoint: str, query: str = "") -> dict[str, Any]:
    """What is listed of an endpoint, in the order of the list."""
    found = (await http.get(f"/api/cli/configs{query}")).json()
    assert found["count"] == len(found["queues"])
    mine = [each for each in found["queues"] if each["name"].startswith(f"{endpoint}.")]
    return {each["name"].partition(".")[2]: each.get("enabled", each["priority"]) for each in mine}


# create


@pytest.mark.parametrize("path", FAMILIES)
async def test_a_queue_is_made(http: httpx.AsyncClient, endpoint: str, path: str) -> None:
    response = await http.post(path, json={"name": endpoint, "priority": 6, "deployment": DEPLOYMENT})
    assert response.status_code == 201
    made = response.json()
    assert made["message"] == "Queue created successfully"
    queue = made["queue"]
    assert (queue["name"], queue["priority"]) == (f"{endpoint}.default", 6)
    assert DEPLOYMENT.items() <= queue["deployment"].items()
    assert (queue["deployment"]["branch"], queue["deployment"]["mode"]) == ("main", "long_running")
    assert await queues(http, endpoint) == {"default": 6}
    assert (await http.post(f"/v2/{endpoint}/run", json={"input": 1})).status_code == 200


async def test_a_sub_queue_brings_no_other(http: httpx.AsyncClient, endpoint: str) -> None:
    made = await create(http, f"{endpoint}.high", 10)
    assert (made["queue"]["name"], made["queue"]["priority"]) == (f"{endpoint}.high", 10)
    assert await queues(http, endpoint) == {"high": 10}
    await create(http, f"{endpoint}.low", 2)
    await create(http, endpoint, 5)
    assert list((await queues(http, endpoint)).items()) == [("high", 10), ("default", 5), ("low", 2)]


async def test_several_at_once(http: httpx.AsyncClient, endpoint: str) -> None:
    wanted = [{"name": "slow", "priority": 1}, {"name": "fast", "priority": 9}]
    response = await http.post("/api/cli/configs", json={"name": endpoint, "sub_queues": wanted})
    assert response.status_code == 201, response.text
    assert response.json()["queue"]["name"] == f"{endpoint}.fast"
    assert await queues(http, endpoint) == {"fast": 9, "slow": 1}


@pytest.mark.parametrize("path", FAMILIES)
async def test_one_that_is_there_is_changed_by_force_alone(http: httpx.AsyncClient, endpoint: str, path: str) -> None:
    await create(http, endpoint, 3, deployment=DEPLOYMENT)
    for name in (endpoint, f"{endpoint}.default"):
        response = await http.post(path, json={"name": name, "priority": 4})
        assert response.status_code == 409
        assert response.json() == {
            "errors": [f"queue '{name}' already exists. Use --force to update existing queue"]
        }  # fmt: skip
        assert (await http.post(f"{path}?force=false", json={"name": name, "priority": 4})).status_code == 409
    assert await queues(http, endpoint) == {"default": 3}
    response = await http.post(f"{path}?force=true", json={"name": endpoint, "priority": 4})
    assert (response.status_code, response.json()["message"]) == (201, "Queue updated successfully")
    assert await queues(http, endpoint) == {"default": 4}
    assert DEPLOYMENT.items() <= response.json()["queue"]["deployment"].items()


async def test_what_is_not_said_stays(http: httpx.AsyncClient, endpoint: str) -> None:
    schema = [{"name": "prompt", "type": ["string"]}]
    await create(http, endpoint, description="mine", input=schema, starvation_seconds=9, deployment=DEPLOYMENT)
    await http.patch(f"/v1/endpoints/{endpoint}", json={"attempts": 9})
    other = DEPLOYMENT | {"branch": "next"}
    found = (await create(http, endpoint, 7, "?force=true", deployment=other))["queue"]
    assert (found["description"], found["input"][0]["name"], found["starvation_seconds"]) == ("mine", "prompt", 9)
    assert found["deployment"]["branch"] == "next"
    assert (await http.get(f"/v1/endpoints/{endpoint}")).json()["attempts"] == 9


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"priority": 1}, "name"), ({"name": "", "priority": 1}, "name"), ({"name": 5, "priority": 1}, "name"),
        ({"name": "a b", "priority": 1}, "name"), ({"name": "a.", "priority": 1}, "name"),
        ({"name": ".b", "priority": 1}, "name"), ({"name": "x" * 64, "priority": 1}, "name"),
        ({"name": "{}.b.c", "priority": 1}, "name"), ({"name": "{}.b c", "priority": 1}, "name"),
        ({"name": "{}\n", "priority": 1}, "name"),
        ({"name": "{}"}, "priority"), ({"name": "{}", "priority": 0}, "priority"),
        ({"name": "{}", "priority": -1}, "priority"), ({"name": "{}", "priority": "5"}, "priority"),
        ({"name": "{}", "priority": 1.5}, "priority"), ({"name": "{}", "priority": 10**30}, "priority"),
        ({"name": "{}", "priority": None}, "priority"),
        ({"name": "{}", "priority": 1, "deployment": {"startup_cmd": "c"}}, "git_url"),
        ({"name": "{}", "priority": 1, "deployment": {"git_url": "u"}}, "startup_cmd"),
        ({"name": "{}", "priority": 1, "deployment": DEPLOYMENT | {"limits": {"ttl_archived": "x"}}}, "ttl_archived"),
        ({"name": "{}", "priority": 1, "deployment": DEPLOYMENT | {"limits": {"max_retry": "3"}}}, "max_retry"),
        ({"name": "{}", "priority": 1, "deployment": DEPLOYMENT | {"limits": []}}, "limits"),
        ({"name": "{}", "priority": 1, "deployment": DEPLOYMENT | {"mode": "x"}}, "mode"),
        ({"name": "{}", "priority": 1, "deployment": DEPLOYMENT | {"git_token": MASK}}, "git_token"),
        ({"name": "{}", "priority": 1, "deployment": DEPLOYMENT | {"git_url": f"https://{MASK}@g"}}, "git_url"),
        ({"name": "{}", "priority": 1, "deployment": 5}, "deployment"),
        ({"name": "{}", "priority": 1, "enabled": False}, "enabled"),
        ({"name": "{}", "priority": 1, "sub_queues": [{"name": "a"}]}, "priority"),
        ({"name": "{}.a", "sub_queues": [{"name": "a", "priority": 1}]}, "sub_queues"),
        ({"name": "{}", "sub_queues": [{"name": str(i), "priority": 1} for i in range(101)]}, "sub_queues"),
    ],
)  # fmt: skip
async def test_a_queue_that_cannot_be(http: httpx.AsyncClient, endpoint: str, body: dict[str, Any], says: str) -> None:
    if isinstance(body.get("name"), str):
        body = body | {"name": body["name"].replace("{}", endpoint)}
    before = (await http.get("/api/cli/configs")).json()
    for path in FAMILIES:
        response = await http.post(path, json=body)
        assert response.status_code == 400, response.text
        (error,) = response.json()["errors"]
        assert says in error
    assert (await http.get("/api/cli/configs")).json() == before


async def test_there_are_only_so_many_sub_queues(http: httpx.AsyncClient, endpoint: str) -> None:
    wanted = [{"name": str(number), "priority": 1} for number in range(100)]
    assert (await http.post("/workers/queues", json={"name": endpoint, "sub_queues": wanted})).status_code == 201
    response = await http.post("/workers/queues", json={"name": f"{endpoint}.more", "priority": 1})
    assert response.status_code == 400, response.text
    assert "100" in response.json()["errors"][0]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"5"])
async def test_a_body_that_makes_no_sense(http: httpx.AsyncClient, body: bytes) -> None:
    for path in FAMILIES:
        response = await http.post(path, content=body)
        assert response.status_code == 400
        assert response.json().keys() == {"errors"}


async def test_many_at_the_same_time(
    gateway: Gateway, small_gateway: Gateway, http: httpx.AsyncClient, endpoint: str
) -> None:
    async with client_of(small_gateway) as other:
        clients = [http, other]
        await asyncio.gather(*(create(clients[i % 2], f"{endpoint}.q{i}", i + 1) for i in range(12)))
        assert await queues(http, endpoint) == {f"q{i}": i + 1 for i in reversed(range(12))}
        body = {"name": f"{endpoint}.one", "priority": 1}
        answers = await asyncio.gather(*(clients[i % 2].post("/workers/queues", json=body) for i in range(12)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 11


# list and show


async def test_what_is_shown(http: httpx.AsyncClient, endpoint: str) -> None:
    began = int(time.time())
    await create(http, f"{endpoint}.high", 9, deployment=DEPLOYMENT)
    await create(http, endpoint, 3)
    found = (await http.get(f"/workers/config/{endpoint}")).json()
    assert found == (await http.get(f"/api/cli/configs/{endpoint}.default")).json()
    assert (found["name"], found["priority"]) == (f"{endpoint}.default", 3)
    assert DEPLOYMENT.items() <= found["deployment"].items()
    assert began - 60 <= found["created_at"] <= found["updated_at"] <= time.time() + 60
    high = (await http.get(f"/workers/config/{endpoint}.high")).json()
    assert (high["name"], high["priority"]) == (f"{endpoint}.high", 9)


async def test_a_name_without_a_default_is_what_is_served_first(http: httpx.AsyncClient, endpoint: str) -> None:
    await create(http, f"{endpoint}.slow", 2)
    await create(http, f"{endpoint}.fast", 8)
    assert (await http.get(f"/workers/config/{endpoint}")).json()["name"] == f"{endpoint}.fast"


async def test_the_names_of_early_versions(http: httpx.AsyncClient, endpoint: str) -> None:
    await create(http, f"{endpoint}.high", 2)
    assert (await http.get(f"/workers/config/{endpoint}_high")).json()["name"] == f"{endpoint}.high"
    for name in (f"{endpoint}_", f"{endpoint}.", f"{endpoint}_low", f"{endpoint}.high.x"):
        assert (await http.get(f"/workers/config/{name}")).status_code == 404


@pytest.mark.parametrize("name", ["missing", "missing.default", "a%2Fb", "{}", "*", "é", "x" * 5000, "a..b"])
async def test_a_queue_that_is_not_there(http: httpx.AsyncClient, name: str) -> None:
    for method, path in (
        ("GET", f"/workers/config/{name}"), ("GET", f"/api/cli/configs/{name}"), ("DELETE", f"/workers/queues/{name}"),
        ("DELETE", f"/api/cli/configs/{name}"), ("POST", f"/workers/queues/{name}/restore"),
        ("POST", f"/api/cli/configs/{name}/restore"),
    ):  # fmt: skip
        response = await http.request(method, path)
        assert response.status_code == 404, (method, path, response.text)
    assert (await http.get("/workers/config/missing")).json() == {"errors": ["queue not found"]}
    assert (await http.delete("/workers/queues/missing")).json() == {"errors": ["queue 'missing' not found"]}


async def test_a_token_is_not_shown(http: httpx.AsyncClient, endpoint: str) -> None:
    hidden = {"git_token": "hidden-token", "git_url": "https://bot:hidden-token@git.example/code.git"}
    made = await create(http, endpoint, deployment=DEPLOYMENT | hidden)
    assert made["queue"]["deployment"]["git_token"] == MASK
    assert made["queue"]["deployment"]["git_url"] == f"https://{MASK}@git.example/code.git"
    for path in (f"/workers/config/{endpoint}", f"/v1/endpoints/{endpoint}", "/v1/endpoints", "/api/cli/configs"):
        assert "hidden-token" not in (await http.get(path)).text
    await create(http, endpoint, 1, "?force=true", deployment=DEPLOYMENT | {"git_token": "vault://a/B"})
    assert (await http.get(f"/v1/endpoints/{endpoint}")).json()["queue"]["deployment"]["git_token"] == "vault://a/B"


# delete and restore


@pytest.mark.parametrize("path", FAMILIES)
async def test_what_is_deleted_keeps_its_jobs_and_can_be_restored(
    http: httpx.AsyncClient, endpoint: str, path: str
) -> None:
    await create(http, endpoint, 3, deployment=DEPLOYMENT)
    await create(http, f"{endpoint}.high", 9)
    job = (await http.post(f"/v2/{endpoint}/run", json={"input": 1})).json()["id"]
    response = await http.delete(f"{path}/{endpoint}.high")
    assert (response.status_code, response.json()) == (
        200, {"message": f"Queue '{endpoint}.high' deleted successfully", "queues": [f"{endpoint}.high"]}
    )  # fmt: skip
    assert await queues(http, endpoint) == {"default": 3}
    assert await queues(http, endpoint, "?deleted=true") == {"high": False, "default": True}
    assert (await http.delete(f"{path}/{endpoint}.high")).status_code == 404
    assert (await http.get(f"/workers/config/{endpoint}.high")).status_code == 404
    assert (await http.delete(f"{path}/{endpoint}")).json()["queues"] == [f"{endpoint}.default"]
    assert await queues(http, endpoint) == {}
    assert (await http.delete(f"{path}/{endpoint}")).status_code == 404
    assert (await http.get(f"/v2/{endpoint}/status/{job}")).json()["status"] == "IN_QUEUE"
    response = await http.post(f"{path}/{endpoint}/restore")
    assert (response.status_code, response.json()["message"]) == (200, f"Queue '{endpoint}' restored successfully")
    assert await queues(http, endpoint) == {"high": 9, "default": 3}
    assert (await http.post(f"{path}/{endpoint}/restore")).json()["queues"] == []
    assert (await http.get(f"/v2/{endpoint}/status/{job}")).json()["status"] == "IN_QUEUE"


async def test_what_is_deleted_serves_nothing(http: httpx.AsyncClient, endpoint: str) -> None:
    await create(http, endpoint)
    id = (await http.post(f"/v2/{endpoint}/run", json={"input": 1})).json()["id"]
    await http.delete(f"/workers/queues/{endpoint}")
    assert (await http.get(f"/v2/{endpoint}/job-take/w1?wait=0")).status_code == 204
    await http.post(f"/workers/queues/{endpoint}/restore")
    assert (await http.get(f"/v2/{endpoint}/job-take/w1?wait=0")).json()["id"] == id


async def test_a_bare_name_means_all_sub_queues(http: httpx.AsyncClient, endpoint: str) -> None:
    for name, priority in (("", 1), (".high", 5), (".low", 2)):
        await create(http, f"{endpoint}{name}", priority)
    await http.delete(f"/workers/queues/{endpoint}")
    assert await queues(http, endpoint) == {}
    await http.post(f"/workers/queues/{endpoint}.low/restore")
    assert await queues(http, endpoint) == {"low": 2}


async def test_a_deleted_queue_that_is_made_again_has_its_new_priority(http: httpx.AsyncClient, endpoint: str) -> None:
    await create(http, endpoint, 3, deployment=DEPLOYMENT)
    await http.delete(f"/workers/queues/{endpoint}")
    made = await create(http, endpoint, 8)
    assert (made["message"], made["queue"]["priority"]) == ("Queue created successfully", 8)
    assert DEPLOYMENT.items() <= made["queue"]["deployment"].items()
    assert await queues(http, endpoint) == {"default": 8}


@pytest.mark.parametrize("query", ["force=maybe", "force=", "force=2"])
async def test_a_flag_that_makes_no_sense(http: httpx.AsyncClient, endpoint: str, query: str) -> None:
    response = await http.post(f"/workers/queues?{query}", json={"name": endpoint, "priority": 1})
    assert response.status_code == 400
    assert "force" in response.json()["errors"][0]


# keys


async def test_who_may_not(gateway: Gateway, endpoint: str) -> None:
    asks = [
        ("GET", "/api/cli/configs"), ("POST", "/workers/queues"), ("DELETE", "/workers/queues/x"),
        ("POST", "/workers/reload"), ("GET", "/workers/config/x"), ("POST", "/api/cli/configs/x/restore"),
    ]  # fmt: skip
    async with client_of(gateway, "a-wrong-key") as stranger:
        for method, path in asks:
            response = await stranger.request(method, path)
            assert (response.status_code, response.json()) == (401, {"errors": ["access unauthorized"]})


@pytest.fixture
async def limited(gateway: Gateway, admin_gateway: Gateway, endpoint: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose key manages one endpoint only, and works for it."""
    async with client_of(admin_gateway, "rl-admin") as admin:
        terms = {"endpoints": [endpoint], "scopes": ["manage", "worker"]}
        key = (await admin.post("/v1/keys", json=terms)).json()
        async with client_of(gateway, key["key"]) as client:
            yield client
        await admin.delete(f"/v1/keys/{key['id']}")


@pytest.fixture(scope="module")
def admin_gateway(backing: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One that makes keys of the tenant default."""
    gateway = Gateway(tmp_path_factory.mktemp("admin"), backing.url, admin_keys="rl-admin", audit_log="off")
    yield gateway
    gateway.stop()


async def test_a_key_for_one_endpoint(http: httpx.AsyncClient, limited: httpx.AsyncClient, endpoint: str) -> None:
    other = f"{endpoint}-other"
    await create(http, other, 2)
    await create(limited, endpoint, 3)
    try:
        assert {each["name"] for each in (await limited.get("/workers/queues")).json()["queues"]} == {
            f"{endpoint}.default"
        }  # fmt: skip
        for method, path, body in (
            ("POST", "/workers/queues?force=true", {"name": other, "priority": 9}),
            ("POST", "/workers/queues", {"name": f"{other}-2", "priority": 9}),
            ("GET", f"/workers/config/{other}", None),
            ("DELETE", f"/workers/queues/{other}", None),
            ("POST", f"/workers/queues/{other}/restore", None),
            ("POST", "/workers/reload", None),
        ):
            response = await limited.request(method, path, json=body)
            assert (response.status_code, response.json()) == (403, {"errors": ["insufficient permissions"]}), path
        assert await queues(http, other) == {"default": 2}
    finally:
        await http.delete(f"/v1/endpoints/{other}")


async def test_a_key_for_one_endpoint_gives_it_no_vaults(
    http: httpx.AsyncClient, limited: httpx.AsyncClient, endpoint: str
) -> None:
    """Vaults are the tenant's, and with this key their values could be had as a worker."""
    await create(http, endpoint, deployment=DEPLOYMENT | {"vaults": ["own"]})
    for deployment in (
        DEPLOYMENT | {"vaults": ["own", "more"]},
        DEPLOYMENT | {"git_token": "vault://more/TOKEN"},
    ):
        body = {"name": endpoint, "priority": 1, "deployment": deployment}
        assert (await limited.post("/workers/queues?force=true", json=body)).status_code == 403
        queue = {"queue": {"deployment": deployment}}
        assert (await limited.patch(f"/v1/endpoints/{endpoint}", json=queue)).status_code == 403
    kept = DEPLOYMENT | {"vaults": ["own"], "branch": "next"}
    await create(limited, endpoint, 1, "?force=true", deployment=kept)
    assert (await limited.patch(f"/v1/endpoints/{endpoint}", json={"queue": {"deployment": kept}})).status_code == 200
    await http.delete(f"/v1/endpoints/{endpoint}")
    fields = {"id": endpoint, "queue": {"deployment": DEPLOYMENT | {"vaults": ["own"]}}}
    assert (await limited.post("/v1/endpoints", json=fields)).status_code == 403
    assert (await http.get(f"/v1/endpoints/{endpoint}")).status_code == 404


async def test_methods(http: httpx.AsyncClient) -> None:
    for path, allowed in (
        ("/api/cli/configs", {"GET", "POST"}), ("/workers/queues", {"GET", "POST"}),
        ("/api/cli/configs/x", {"GET", "DELETE"}), ("/workers/queues/x", {"DELETE"}),
        ("/workers/config/x", {"GET"}), ("/workers/reload", {"POST"}), ("/workers/queues/x/restore", {"POST"}),
    ):  # fmt: skip
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - allowed:
            response = await http.request(method, path, headers=bearer(API_KEY))
            assert response.status_code == 405, (method, path)
            assert response.json().keys() == {"errors"}

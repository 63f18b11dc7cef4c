"""Webhooks as their receivers and tenants see them: a gateway with all that is behind it, and receivers on loopback."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import WebhookVerificationError

import handler_sdk
from gateway import webhooks
from gateway.engine.deliveries import Claim
from gateway.settings import Settings
from gateway.webhooks import delay_ms

from ..stores import Server, valkey
from .clients import API_KEY, Target, Worker
from .conftest import Make, client_of
from .processes import Gateway
from .receiver import HANG, Receiver
from .waiting import SECONDS, eventually

RETRY_SECONDS = 0.05
AT_ONCE = 4
OTHERS_KEY, ADMIN_KEY = "rl-of-the-tenant-other", "rl-of-the-tenant-limited"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a store of its own: another one over the same store would deliver in its stead."""
    server = Server(tmp_path_factory.mktemp("webhook-store"), valkey())
    server.start()
    gateway = Gateway(
        tmp_path_factory.mktemp("webhook-gateway"), server.url, outbound_allow="127.0.0.1",
        api_keys=f"{API_KEY},other:{OTHERS_KEY}", admin_keys=f"limited:{ADMIN_KEY}", rate_limits="off",
        webhook_seconds="2", webhook_retry_seconds=str(RETRY_SECONDS), webhooks_at_once_per_receiver=str(AT_ONCE),
    )  # fmt: skip
    yield gateway
    gateway.stop()
    server.stop()


@pytest.fixture
def few_at_once(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that sends two webhooks of a tenant at once."""
    server = Server(tmp_path / "store", valkey())
    server.start()
    gateway = Gateway(
        tmp_path / "gateway", server.url, outbound_allow="127.0.0.1", api_keys=API_KEY, rate_limits="off",
        webhook_seconds="2", webhook_retry_seconds=str(RETRY_SECONDS), webhooks_at_once="8",
    )  # fmt: skip
    yield gateway
    gateway.stop()
    server.stop()


@pytest.fixture
async def other_receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    await receiver.start()
    yield receiver
    await receiver.stop()


async def run_to_end(target: Target, worker: Worker, output: bytes = b"1", **fields: Any) -> str:
    """A job that has completed."""
    id = await target.run(1, **fields)
    (job,) = worker.take()
    assert worker.finish(job, output) == b"OK"
    return id


async def secrets(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    response = await http.get("/v1/webhook-secrets")
    assert response.status_code == 200
    found: list[dict[str, Any]] = response.json()["secrets"]
    return found


async def rotate(http: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await http.post("/v1/webhook-secrets", json=fields)


async def log(target: Target, **query: Any) -> list[dict[str, Any]]:
    response = await target.get("/webhooks", params=query)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["webhooks"]
    return found


async def entry(target: Target, id: str) -> dict[str, Any]:
    response = await target.get(f"/webhooks/{id}")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def settled(target: Target, id: str, state: str) -> dict[str, Any]:
    """The log's entry, once it has this state."""

    async def look() -> dict[str, Any]:
        found = await entry(target, id)
        return found if found["state"] == state else {}

    return await eventually(look)


async def tried(target: Target, id: str, result: Any, times: int = 1) -> dict[str, Any]:
    """The log's entry, once it has so many attempts with this status or error."""

    async def look() -> dict[str, Any]:
        found = await entry(target, id)
        results = [attempt.get("status", attempt.get("error")) for attempt in found["attempts"]]
        return found if results.count(result) >= times else {}

    return await eventually(look)


# what is sent


async def test_the_receiver_gets_the_job_object_signed(target: Target, worker: Worker, receiver: Receiver) -> None:
    id = await run_to_end(target, worker, b'{"n":1.50,"text":"\\u00e9"}', webhook=receiver.url("/hook?key=1"))

    (received,) = await receiver.wait_for(1)

    assert received.path == "/hook"
    assert received.body == (await target.get(f"/status/{id}")).content
    assert received.id == f"msg_{id}_1"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["user-agent"] == f"runlane/{handler_sdk.__version__}"
    (secret,) = await secrets(target.http)
    assert received.verified(secret["secret"]) == await target.status(id)
    with pytest.raises(WebhookVerificationError):
        received._replace(body=received.body + b" ").verified(secret["secret"])
    with pytest.raises(WebhookVerificationError):
        received._replace(headers={**received.headers, "webhook-id": "other"}).verified(secret["secret"])


async def test_both_addresses_of_a_job_are_told(target: Target, worker: Worker, receiver: Receiver) -> None:
    id = await run_to_end(target, worker, webhook=receiver.url("/1"), webhookV2=receiver.url("/2"))
    received = await receiver.wait_for(2)
    assert {each.path for each in received} == {"/1", "/2"}
    assert {each.id for each in received} == {f"msg_{id}_1", f"msg_{id}_2"}


async def test_an_address_that_is_given_twice_is_told_once(target: Target, worker: Worker, receiver: Receiver) -> None:
    id = await run_to_end(target, worker, webhook=receiver.url("/1"), webhookV2=receiver.url("/1#x"))
    await settled(target, f"msg_{id}_1", "delivered")
    assert len(await log(target)) == len(receiver.received) == 1


async def test_the_endpoint_has_an_address_for_jobs_without(make_target: Make, receiver: Receiver) -> None:
    target = await make_target(webhook=receiver.url("/endpoint"))
    worker = await target.register()
    await run_to_end(target, worker)
    await run_to_end(target, worker, webhook=receiver.url("/own"))
    waiting = asyncio.create_task(target.post("/runsync", {"input": 1}))
    worker.fail(await worker.next(), "it broke")
    assert (await waiting).json()["status"] == "FAILED"

    received = await receiver.wait_for(3)

    assert sorted(each.path for each in received) == ["/endpoint", "/endpoint", "/own"]
    assert {json.loads(each.body)["status"] for each in received} == {"COMPLETED", "FAILED"}


@pytest.mark.parametrize("field", ["webhook", "webhookV2"])
async def test_without_an_address_nothing_is_told(target: Target, worker: Worker, field: str) -> None:
    await run_to_end(target, worker, **{field: None})
    await run_to_end(target, worker, **{field: ""})
    assert await log(target) == []


async def test_a_cancelled_job_is_told(target: Target, worker: Worker, receiver: Receiver) -> None:
    id = await target.run(1, webhook=receiver.url())
    await target.post(f"/cancel/{id}")
    (received,) = await receiver.wait_for(1)
    assert json.loads(received.body) == {"id": id, "status": "CANCELLED"}


async def test_a_large_output_arrives_whole(target: Target, worker: Worker, receiver: Receiver) -> None:
    output = b'"%b"' % (b"x" * 5_000_000)
    await run_to_end(target, worker, output, webhook=receiver.url())
    (received,) = await receiver.wait_for(1)
    assert received.verified((await secrets(target.http))[0]["secret"])["output"] == json.loads(output)


# where it may go


@pytest.mark.parametrize("field", ["webhook", "webhookV2"])
@pytest.mark.parametrize("url", ["x", "ftp://example.com/", "http://10.0.0.1/", "http://[::1]/", "http://2130706434/"])
async def test_an_address_that_cannot_be_is_refused(target: Target, field: str, url: str) -> None:
    response = await target.post("/run", {"input": 1, field: url})
    assert response.status_code == 400
    assert response.json()["error"].startswith(f"{field}: the URL")
    assert await target.listed() == []


async def test_an_endpoint_s_address_is_checked(target: Target, receiver: Receiver) -> None:
    path = f"/v1/endpoints/{target.id}"
    assert (await target.http.post("/v1/endpoints", json={"webhook": "http://10.0.0.1/"})).status_code == 400
    assert (await target.http.patch(path, json={"webhook": "http://169.254.169.254/"})).status_code == 400
    assert (await target.http.patch(path, json={"webhook": 5})).status_code == 400
    assert (await target.http.get(path)).json()["webhook"] is None
    assert (await target.http.patch(path, json={"webhook": receiver.url()})).json()["webhook"] == receiver.url()
    assert (await target.http.patch(path, json={"webhook": None})).json()["webhook"] is None


async def test_a_redirection_is_not_followed(
    target: Target, worker: Worker, receiver: Receiver, other_receiver: Receiver
) -> None:
    receiver.answers["/"] = [302, 307, 200]
    receiver.location = other_receiver.url()
    id = await run_to_end(target, worker, webhook=receiver.url())
    found = await settled(target, f"msg_{id}_1", "delivered")
    assert [attempt["status"] for attempt in found["attempts"]] == [302, 307, 200]
    assert other_receiver.received == []


# receivers in trouble


async def test_what_failed_is_sent_again_with_the_same_id(target: Target, worker: Worker, receiver: Receiver) -> None:
    receiver.answers["/"] = [500, 404, 204]
    id = await run_to_end(target, worker, webhook=receiver.url())
    found = await settled(target, f"msg_{id}_1", "delivered")
    assert {each.id for each in receiver.received} == {f"msg_{id}_1"}
    assert [attempt["status"] for attempt in found["attempts"]] == [500, 404, 204]
    assert found["job"] == id
    assert found["url"] == receiver.url()
    assert found["nextAttemptAt"] is None
    starts = [found["createdAt"], *(attempt["at"] for attempt in found["attempts"])]
    assert starts == sorted(starts)
    assert "what a receiver says" not in json.dumps(found)
    secret = (await secrets(target.http))[0]["secret"]
    assert [each.verified(secret) for each in receiver.received] == [await target.status(id)] * 3


async def test_a_receiver_that_is_gone_is_left_alone(target: Target, worker: Worker, receiver: Receiver) -> None:
    receiver.answers["/"] = [410]
    id = await run_to_end(target, worker, webhook=receiver.url())
    found = await settled(target, f"msg_{id}_1", "failed")
    assert [attempt["status"] for attempt in found["attempts"]] == [410]


async def test_a_receiver_that_was_down_gets_it_when_it_is_back(
    target: Target, worker: Worker, receiver: Receiver
) -> None:
    await receiver.stop()
    id = await run_to_end(target, worker, webhook=receiver.url())
    assert (await tried(target, f"msg_{id}_1", "unreachable", 3))["state"] == "pending"
    await receiver.start()
    (received,) = await receiver.wait_for(1)
    assert received.id == f"msg_{id}_1"
    await settled(target, f"msg_{id}_1", "delivered")


async def test_a_receiver_that_hangs_delays_nobody_else(
    target: Target, worker: Worker, receiver: Receiver, other_receiver: Receiver
) -> None:
    receiver.answers["/"] = [HANG]
    hanging = {await run_to_end(target, worker, webhook=receiver.url()) for _ in range(5 * AT_ONCE)}
    await receiver.wait_for(AT_ONCE)

    others = {await run_to_end(target, worker, webhook=other_receiver.url()) for _ in range(10)}

    assert {json.loads(each.body)["id"] for each in await other_receiver.wait_for(10)} == others
    assert len(await log(target, state="delivered")) <= 10
    found = await tried(target, receiver.received[0].id, "timeout")
    assert found["state"] == "pending"
    assert len(receiver.received) <= 2 * AT_ONCE
    receiver.let_go()
    for id in hanging:
        await settled(target, f"msg_{id}_1", "delivered")


async def test_a_receiver_in_trouble_gets_one_at_a_time(target: Target, worker: Worker, receiver: Receiver) -> None:
    receiver.answers["/"] = [500, HANG]
    first = await run_to_end(target, worker, webhook=receiver.url())
    await tried(target, f"msg_{first}_1", 500)
    ids = {first} | {await run_to_end(target, worker, webhook=receiver.url()) for _ in range(5)}
    await receiver.wait_for(2)
    hung = receiver.received[1].id
    await tried(target, hung, "timeout")
    assert len(receiver.received) <= 3
    receiver.let_go()
    for id in ids:
        await settled(target, f"msg_{id}_1", "delivered")


async def test_many_receivers_that_hang_leave_room_for_others(
    make_target: Make, few_at_once: Gateway, receiver: Receiver
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(client_of(few_at_once))
        target = Target(http, (await http.post("/v1/endpoints", json={})).json())
        worker = await target.register()
        hanging = [Receiver() for _ in range(3)]
        for each in hanging:
            each.answers["/"] = [500, HANG]
            await each.start()
            stack.push_async_callback(each.stop)
        for each in hanging:
            await run_to_end(target, worker, webhook=each.url())
            await each.wait_for(1)
        for each in hanging * 3:
            await run_to_end(target, worker, webhook=each.url())

        async def some_hang() -> bool:
            return sum(len(each.received) for each in hanging) >= 4

        await eventually(some_hang)

        await run_to_end(target, worker, webhook=receiver.url())

        await receiver.wait_for(1)
        assert sum(len(each.received) for each in hanging) <= 6
        target.close()


async def test_what_is_given_back_waits_for_the_store_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "SECONDS_TO_END", 0.01)
    begun, all_begun, released = asyncio.Event(), asyncio.Barrier(3), []
    claims = [Claim(f"msg_{i}_1", "j", "http://a.example/", "http://a.example", 1, 0, 1, 0) for i in range(3)]

    class Slow:
        async def claim(self, *_: object) -> tuple[list[Claim], bool]:
            return claims, False

        async def event(self, *_: object) -> None:
            begun.set()
            await asyncio.Event().wait()

        async def release(self, _: str, claim: Claim, __: int) -> None:
            await all_begun.wait()
            released.append(claim)

    slow: Any = Slow()
    sender = webhooks.Webhooks(slow, slow, slow, slow, Settings())
    sender.start()
    sender.due("e")
    await begun.wait()
    async with asyncio.timeout(SECONDS):
        await sender.stop()
    assert sorted(claim.id for claim in released) == [claim.id for claim in claims]


@pytest.mark.parametrize(
    ("failures", "least", "most"),
    [(1, 10, 10), (2, 10, 10), (3, 30, 60), (4, 60, 120), (5, 120, 240), (11, 7200, 14_400), (500, 7200, 14_400)],
)
def test_tries_come_less_and_less_often(failures: int, least: int, most: int) -> None:
    assert delay_ms(failures, 10.0, min) == least * 1000
    assert delay_ms(failures, 10.0, max) == most * 1000
    assert least * 1000 <= delay_ms(failures, 10.0) <= most * 1000


# the log


async def test_the_log_comes_in_pages(target: Target, worker: Worker, receiver: Receiver) -> None:
    receiver.answers["/bad"] = [410]
    good = [await run_to_end(target, worker, webhook=receiver.url()) for _ in range(3)]
    bad = await run_to_end(target, worker, webhook=receiver.url("/bad"))
    for id in good:
        await settled(target, f"msg_{id}_1", "delivered")
    await settled(target, f"msg_{bad}_1", "failed")

    pages, cursor = [], None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await target.get("/webhooks", params=query)).json()
        pages.append([each["job"] for each in page["webhooks"]])
        cursor = page["next"]
        if not cursor:
            break

    assert sorted(job for page in pages for job in page) == sorted([*good, bad])
    assert pages[0][0] == bad
    assert [each["job"] for each in await log(target, state="failed")] == [bad]
    assert {each["job"] for each in await log(target, state="delivered")} == set(good)
    assert await log(target, state="pending") == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=1001", "state=x", "cursor=x", "cursor=1.2.3", "cursor=1.02"]
)
async def test_what_cannot_be_asked_of_the_log(target: Target, query: str) -> None:
    response = await target.get(f"/webhooks?{query}")
    assert response.status_code == 400
    assert query.partition("=")[0] in response.json()["error"]


async def test_each_endpoint_has_its_own_log(make_target: Make, receiver: Receiver) -> None:
    mine, other = await make_target(), await make_target()
    id = await run_to_end(mine, await mine.register(), webhook=receiver.url())
    await settled(mine, f"msg_{id}_1", "delivered")
    assert await log(other) == []
    assert (await other.get(f"/webhooks/msg_{id}_1")).status_code == 404
    assert (await other.post(f"/webhooks/msg_{id}_1/retry")).status_code == 404
    assert (await mine.http.get("/v2/nothing/webhooks")).status_code == 404
    assert len(receiver.received) == 1


@pytest.mark.parametrize("id", ["x", "msg_x_1", "msg_x", "msg__1", "msg_x_1%0a"])
async def test_a_delivery_that_is_not_there(target: Target, id: str) -> None:
    assert (await target.get(f"/webhooks/{id}")).status_code == 404
    assert (await target.post(f"/webhooks/{id}/retry")).status_code == 404


async def test_methods(target: Target) -> None:
    assert (await target.post("/webhooks")).status_code == 405
    assert (await target.post("/webhooks/msg_x_1")).status_code == 405
    assert (await target.get("/webhooks/msg_x_1/retry")).status_code == 405
    assert (await target.http.delete("/v1/webhook-secrets")).status_code == 405


async def test_all_of_it_needs_a_key(target: Target, gateway: Gateway) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as nobody:
        for path in (f"{target.path}/webhooks", f"{target.path}/webhooks/msg_x_1", "/v1/webhook-secrets"):
            assert (await nobody.get(path)).status_code == 401
        for path in (f"{target.path}/webhooks/msg_x_1/retry", "/v1/webhook-secrets"):
            assert (await nobody.post(path)).status_code == 401


async def test_what_failed_is_sent_again_by_hand(target: Target, worker: Worker, receiver: Receiver) -> None:
    receiver.answers["/"] = [410, 200]
    id = await run_to_end(target, worker, webhook=receiver.url())
    await settled(target, f"msg_{id}_1", "failed")
    response = await target.post(f"/webhooks/msg_{id}_1/retry")
    assert (response.status_code, response.json()["id"]) == (200, f"msg_{id}_1")
    await settled(target, f"msg_{id}_1", "delivered")
    first, second = receiver.received
    assert (first.id, first.body) == (second.id, second.body)


async def test_what_was_delivered_is_sent_again_by_hand(target: Target, worker: Worker, receiver: Receiver) -> None:
    id = await target.run(1, webhook=receiver.url())
    worker.fail(*worker.take())
    await settled(target, f"msg_{id}_1", "delivered")
    assert (await target.post(f"/webhooks/msg_{id}_1/retry")).status_code == 200
    first, second = await receiver.wait_for(2)
    assert (first.id, first.body) == (second.id, second.body)
    await settled(target, f"msg_{id}_1", "delivered")
    await target.post(f"/retry/{id}")
    response = await target.post(f"/webhooks/msg_{id}_1/retry")
    assert (response.status_code, response.json().keys()) == (409, {"error"})


async def test_the_end_after_a_retry_is_another_event(target: Target, worker: Worker, receiver: Receiver) -> None:
    id = await target.run(1, webhook=receiver.url())
    worker.fail(*worker.take())
    await receiver.wait_for(1)
    await target.post(f"/retry/{id}")
    worker.finish(*worker.take())
    received = await receiver.wait_for(2)
    assert [each.id for each in received] == [f"msg_{id}_1", f"msg_{id}_2"]
    assert [json.loads(each.body)["status"] for each in received] == ["FAILED", "COMPLETED"]


# tenants


async def test_each_tenant_has_its_own(
    gateway: Gateway, target: Target, worker: Worker, receiver: Receiver, other_receiver: Receiver
) -> None:
    async with client_of(gateway, OTHERS_KEY) as http:
        created = await http.post("/v1/endpoints", json={"id": target.id, "webhook": other_receiver.url()})
        other = Target(http, created.json())
        theirs = await run_to_end(other, await other.register())
        mine = await run_to_end(target, worker, webhook=receiver.url())

        (to_me,), (to_them,) = await receiver.wait_for(1), await other_receiver.wait_for(1)

        assert (to_me.id, to_them.id) == (f"msg_{mine}_1", f"msg_{theirs}_1")
        assert [each["job"] for each in await log(other)] == [theirs]
        assert (await other.get(f"/webhooks/msg_{mine}_1")).status_code == 404
        secret, their_secret = (await secrets(target.http))[0]["secret"], (await secrets(http))[0]["secret"]
        to_me.verified(secret)
        to_them.verified(their_secret)
        with pytest.raises(WebhookVerificationError):
            to_them.verified(secret)
        other.close()
        await http.delete(f"/v1/endpoints/{other.id}")


@pytest.mark.parametrize(
    ("terms", "may"),
    [
        ({"scopes": ["read"]}, {"read"}),
        ({"scopes": ["submit"]}, {"retry"}),
        ({"scopes": ["manage"]}, {"secrets"}),
        ({"scopes": ["read", "submit", "manage"], "endpoints": ["e"]}, {"read", "retry"}),
        ({"scopes": ["read", "submit", "manage"], "endpoints": ["other"]}, set()),
    ],
)
async def test_what_a_key_may_do(gateway: Gateway, terms: dict[str, Any], may: set[str]) -> None:
    async with client_of(gateway, ADMIN_KEY) as admin:
        await admin.post("/v1/endpoints", json={"id": "e"})
        created = await admin.post("/v1/keys", json=terms)
        assert created.status_code == 201, created.text
        async with client_of(gateway, created.json()["key"]) as http:
            answers = {
                "read": await http.get("/v2/e/webhooks"),
                "retry": await http.post("/v2/e/webhooks/msg_x_1/retry"),
                "secrets": await http.get("/v1/webhook-secrets"),
                "rotation": await http.post("/v1/webhook-secrets"),
            }
        allowed = {name for name, answer in answers.items() if answer.status_code != 403}
        assert allowed == may | ({"rotation"} if "secrets" in may else set())
        await admin.delete("/v1/endpoints/e")


# secrets


async def test_a_rotation_has_both_sign_for_a_while(target: Target, worker: Worker, receiver: Receiver) -> None:
    await rotate(target.http, overlapSeconds=0)
    (old,) = await secrets(target.http)
    assert old["expiresAt"] is None

    response = await rotate(target.http, overlapSeconds=3600)

    assert response.status_code == 201
    new, before = response.json()["secrets"]
    assert (before["id"], before["secret"]) == (old["id"], old["secret"])
    assert before["expiresAt"] == new["createdAt"] + 3_600_000
    assert await secrets(target.http) == [new, before]
    await run_to_end(target, worker, webhook=receiver.url())
    (received,) = await receiver.wait_for(1)
    assert len(received.headers["webhook-signature"].split(" ")) == 2
    for secret in (new, before):
        received.verified(secret["secret"])


async def test_without_an_overlap_only_the_new_one_signs(target: Target, worker: Worker, receiver: Receiver) -> None:
    old = await secrets(target.http)
    (new,) = (await rotate(target.http, overlapSeconds=0)).json()["secrets"]
    await run_to_end(target, worker, webhook=receiver.url())
    (received,) = await receiver.wait_for(1)
    received.verified(new["secret"])
    for secret in old:
        with pytest.raises(WebhookVerificationError):
            received.verified(secret["secret"])


async def test_secrets_are_never_too_many(http: httpx.AsyncClient) -> None:
    await rotate(http, overlapSeconds=0)
    statuses = [(await rotate(http)).status_code for _ in range(5)]
    assert statuses == [201, 201, 201, 201, 409]
    assert (await rotate(http, overlapSeconds=0)).status_code == 201
    assert len(await secrets(http)) == 1


@pytest.mark.parametrize(
    "body", [b"[]", b"{", b"\xff", b'{"overlapSeconds":-1}', b'{"overlapSeconds":"1"}', b'{"x":1}', b"[" * 900]
)
async def test_what_cannot_be_a_rotation(http: httpx.AsyncClient, body: bytes) -> None:
    before = await secrets(http)
    assert (await http.post("/v1/webhook-secrets", content=body)).status_code == 400
    assert await secrets(http) == before

"""Requests to elsewhere, to real sockets: where they go, where they do not, and what nobody there can do to us."""

import asyncio
import logging
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway import lookups, outbound
from gateway.errors import BadRequest, StartupError
from gateway.outbound import Failed, Outbound

from ..stores import free_port
from .receivers import (
    Authority,
    Behaviour,
    Receiver,
    Request,
    answering,
    closing,
    not_accepting,
    read_request,
    receiving,
    repeating,
    resetting,
    sending,
    silent,
)
from .waiting import eventually, eventually_true

ENOUGH = 15.0  # seconds, for what comes about
SHORT = 0.3  # seconds, for what does not
LOOPBACK = ("127.0.0.0/8", "::1")


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Outbound]:
    client = Outbound(LOOPBACK)
    yield client
    await client.close()


class Names:
    """A name service: each name has a list of answers, the last of which is repeated. Whoever asked is in `asked`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: str, port: int | None, **_: Any) -> list[Any]:
        self.asked.append(host)
        answers = self.answers.get(host)
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0)) for address in addresses]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that clients trust which are made from now on."""
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return authority


async def kind_of(client: Outbound, url: str, seconds: float = ENOUGH) -> str:
    """How a request fails."""
    with pytest.raises(Failed) as caught:
        await client.post(url, {}, b"{}", seconds)
    assert str(caught.value) == outbound.TEXTS[caught.value.kind]
    return caught.value.kind


async def test_a_request_arrives_as_it_was_given(client: Outbound) -> None:
    requests: list[Request] = []
    async with receiving(answering("204 No Content", requests)) as receiver:
        url = client.check_url(f"http://LOCALHOST:{receiver.port}/a%20b/ä?c=d#e")
        assert (
            await client.post(url, {"Content-Type": "application/json", "webhook-id": "msg_1"}, b'{"a": 1}', 5) == 204
        )
    assert requests[0].line == "POST /a%20b/%C3%A4?c=d HTTP/1.1"
    assert requests[0].body == b'{"a": 1}'
    assert requests[0].headers == {
        "host": f"localhost:{receiver.port}", "content-length": "8", "content-type": "application/json",
        "webhook-id": "msg_1",
    }  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, outbound.PIECE, 5_000_000])
async def test_a_body_of_any_size_arrives_whole(client: Outbound, size: int) -> None:
    requests: list[Request] = []
    body = bytes(index % 251 for index in range(size))
    async with receiving(answering("200 OK", requests)) as receiver:
        assert await client.post(f"http://127.0.0.1:{receiver.port}", {}, body, ENOUGH) == 200
    assert requests[0].body == body


@pytest.mark.parametrize("head", ["200 OK", "299 Whatever", "400 Bad", "404 Not Found", "410 Gone", "500 Oops"])
async def test_the_status_comes_back_whatever_it_is(client: Outbound, head: str) -> None:
    async with receiving(answering(head, body=b"a body")) as receiver:
        assert await client.post(f"http://127.0.0.1:{receiver.port}/", {}, b"", ENOUGH) == int(head[:3])


async def test_ipv6(client: Outbound) -> None:
    requests: list[Request] = []
    async with receiving(answering("200 OK", requests), "::1") as receiver:
        assert await client.post(f"http://[::1]:{receiver.port}/", {}, b"", ENOUGH) == 200
    assert requests[0].headers["host"] == f"[::1]:{receiver.port}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_status_and_is_not_followed(status: int) -> None:
    async with receiving(answering("200 OK")) as private:
        head = f"{status} Elsewhere\r\nLocation: http://127.0.0.2:{private.port}/"
        async with receiving(answering(head)) as receiver:
            client = Outbound(["127.0.0.0/8"])
            assert await client.post(f"http://127.0.0.1:{receiver.port}/", {}, b"", ENOUGH) == status
            await client.close()
        assert receiver.connections == 1
        assert private.connections == 0


async def test_what_is_not_allowed_is_refused_and_not_connected_to(names: Names) -> None:
    client = Outbound()
    names.answers["inside.example"] = [["127.0.0.1"]]
    async with receiving(silent) as receiver:
        for host in ("127.0.0.1", "0x7f.1", "localhost", "inside.example"):
            assert await kind_of(client, f"http://{host}:{receiver.port}/") == "refused"
        assert receiver.connections == 0
    assert names.asked == ["inside.example"]
    with pytest.raises(BadRequest):
        client.check_url(f"http://localhost:{receiver.port}/")


async def test_an_allowed_port_allows_no_other() -> None:
    async with receiving(answering("200 OK")) as allowed, receiving(answering("200 OK")) as other:
        client = Outbound([f"127.0.0.1:{allowed.port}"])
        assert await client.post(f"http://127.0.0.1:{allowed.port}/", {}, b"", ENOUGH) == 200
        assert await kind_of(client, f"http://127.0.0.1:{other.port}/") == "refused"
        await client.close()
    assert other.connections == 0


async def test_an_allowed_name_is_allowed_whatever_it_resolves_to(names: Names) -> None:
    names.answers |= {"hooks.internal": [["127.0.0.1"]], "other.internal": [["127.0.0.1"]]}
    client = Outbound(["hooks.internal"])
    async with receiving(answering("200 OK")) as receiver:
        assert await client.post(f"http://hooks.internal:{receiver.port}/", {}, b"", ENOUGH) == 200
        assert await kind_of(client, f"http://other.internal:{receiver.port}/") == "refused"
        await client.close()
    assert receiver.connections == 1


def test_an_entry_that_cannot_be_ends_the_start() -> None:
    with pytest.raises(StartupError, match="outbound_allow"):
        Outbound(["10.0.0.1/8"])


@asynccontextmanager
async def both_addresses() -> AsyncIterator[tuple[Receiver, Receiver]]:
    """Receivers at 127.0.0.2 and 127.0.0.1, at one port."""
    port = free_port()
    async with (
        receiving(answering("200 OK"), "127.0.0.2", port) as second,
        receiving(answering("200 OK"), "127.0.0.1", port) as first,
    ):
        yield second, first


async def test_a_name_is_looked_up_once_and_the_connection_goes_there(names: Names) -> None:
    client = Outbound(["127.0.0.2"])
    names.answers = {"good.example": [["127.0.0.2"], ["127.0.0.1"]], "bad.example": [["127.0.0.1"], ["127.0.0.2"]]}
    async with both_addresses() as (allowed, private):
        assert await client.post(f"http://good.example:{allowed.port}/", {}, b"", ENOUGH) == 200
        assert await kind_of(client, f"http://bad.example:{allowed.port}/") == "refused"
        assert names.asked == ["good.example", "bad.example"]
        await client.close()  # the next one needs a connection of its own, and the name has changed
        assert await kind_of(client, f"http://good.example:{allowed.port}/") == "refused"
    assert allowed.connections == 1
    assert private.connections == 0


async def test_of_several_addresses_only_those_are_tried_that_are_allowed(names: Names) -> None:
    client = Outbound(["127.0.0.2"])
    names.answers["mixed.example"] = [["127.0.0.1", "10.0.0.1", "::1", "fe80::1%lo", "127.0.0.2"]]
    async with both_addresses() as (allowed, private):
        assert await client.post(f"http://mixed.example:{allowed.port}/", {}, b"", ENOUGH) == 200
        await client.close()
    assert private.connections == 0


async def test_the_next_address_is_tried_when_one_refuses_or_does_not_answer(client: Outbound, names: Names) -> None:
    async with receiving(answering("200 OK"), "127.0.0.3", free_port()) as receiver:
        with not_accepting("127.0.0.2", receiver.port):
            names.answers["many.example"] = [["127.0.0.1", "127.0.0.2", "127.0.0.3"]]
            assert await client.post(f"http://many.example:{receiver.port}/", {}, b"", 2.0) == 200


async def test_no_more_than_a_few_addresses_are_tried_of_both_families(
    client: Outbound, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    async def connect(host: str, port: int, **_: Any) -> Any:
        tried.append(host)
        raise outbound.httpcore.ConnectError

    monkeypatch.setattr(outbound.httpcore.AnyIOBackend, "connect_tcp", staticmethod(connect))
    names.answers["many.example"] = [[*(f"127.0.0.{last}" for last in (1, 1, 2, 3, 4, 5, 6)), "::1"]]
    assert await kind_of(client, "http://many.example:1/") == "unreachable"
    assert tried == ["127.0.0.1", "::1", "127.0.0.2", "127.0.0.3"]


async def test_a_name_without_addresses(client: Outbound, names: Names) -> None:
    assert await kind_of(client, "http://nothing.example/") == "unresolved"
    assert names.asked == ["nothing.example"]


async def test_a_port_where_nobody_listens(client: Outbound) -> None:
    async with receiving(silent) as receiver:
        pass
    assert await kind_of(client, f"http://127.0.0.1:{receiver.port}/") == "unreachable"


async def test_a_port_where_nobody_accepts(client: Outbound) -> None:
    with not_accepting() as port:
        assert await kind_of(client, f"http://127.0.0.1:{port}/", SHORT) == "timeout"


SECRET = b"what-the-receiver-sends"
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("behaviour", "seconds", "kind"),
    [
        pytest.param(silent, SHORT, "timeout", id="silent"),
        pytest.param(closing, ENOUGH, "protocol", id="closes at once"),
        pytest.param(resetting, ENOUGH, "protocol", id="resets"),
        pytest.param(sending(b"", True), ENOUGH, "protocol", id="closes after the request"),
        pytest.param(sending(OK + b"A: " + SECRET, True), ENOUGH, "protocol", id="closes in the head"),
        pytest.param(sending(OK + b"A: " + SECRET, False), SHORT, "timeout", id="stops in the head"),
        pytest.param(sending(SECRET + b"\r\n\r\n", False), ENOUGH, "protocol", id="garbage"),
        pytest.param(sending(b"\x16\x03\x01\x02\x00" * 100, False), ENOUGH, "protocol", id="bytes"),
        pytest.param(sending(b"HTTP/1.1 20 OK\r\n\r\n", False), ENOUGH, "protocol", id="no status"),
        pytest.param(sending(b"HTTP/1.1 101 Up\r\nUpgrade: x\r\n\r\n", False), ENOUGH, "protocol", id="upgrade"),
        pytest.param(sending(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", False), ENOUGH, "protocol",
                     id="two lengths"),
        pytest.param(repeating(OK, b"A", 0.01), SHORT, "timeout", id="slow head"),
        pytest.param(repeating(OK, b"A: " + b"b" * 1000 + b"\r\n"), ENOUGH, "protocol", id="endless head"),
        pytest.param(repeating(OK + b"A: ", b"b" * 1000), ENOUGH, "protocol", id="endless header"),
        pytest.param(repeating(b"", b"\x00" * 1000), ENOUGH, "protocol", id="endless line"),
        pytest.param(repeating(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), ENOUGH, "protocol", id="1xx flood"),
        pytest.param(repeating(b"", b"HTTP/1.1 103 Hints\r\n\r\n", 0.01), SHORT, "timeout", id="slow 1xx flood"),
        pytest.param(sending(OK + b"Content-Length: 9\r\n\r\nabc", True), ENOUGH, "200", id="closes in the body"),
        pytest.param(sending(OK + b"Content-Length: 9\r\n\r\nabc", False), ENOUGH, "200", id="stops in the body"),
        pytest.param(sending(OK + b"Content-Length: 3\r\n\r\nabcdef", True), ENOUGH, "200", id="more than the body"),
        pytest.param(sending(OK + b"\r\nabc", True), ENOUGH, "200", id="body without a length"),
        pytest.param(sending(OK + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", True), ENOUGH, "200",
                     id="no gzip"),
        pytest.param(sending(OK + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n", False), ENOUGH, "200",
                     id="no chunk"),
        pytest.param(repeating(OK + b"\r\n", b"a" * 65536), ENOUGH, "200", id="endless body"),
        pytest.param(repeating(OK + b"\r\n", b"a", 0.01), ENOUGH, "200", id="slow body"),
        pytest.param(repeating(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"), ENOUGH, "200",
                     id="endless chunks"),
        pytest.param(repeating(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n"), ENOUGH, "200",
                     id="endless trailers"),
    ],
)  # fmt: skip
async def test_what_a_receiver_can_do(
    client: Outbound, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour,
    seconds: float, kind: str,
) -> None:  # fmt: skip
    """Each ends in the time given, with its connection closed and nothing of what came in a text or a log."""
    monkeypatch.setattr(outbound, "REST_SECONDS", 0.1)
    caplog.set_level(logging.DEBUG)
    async with receiving(behaviour) as receiver:
        url = f"http://127.0.0.1:{receiver.port}/path-secret?query-secret"
        async with asyncio.timeout(ENOUGH):
            if kind.isdigit():
                assert await client.post(url, {}, b"{}", seconds) == int(kind)
            else:
                assert await kind_of(client, url, seconds) == kind
            await receiver.all_closed.wait()
    assert receiver.connections == 1
    for secret in (SECRET.decode(), "path-secret", "query-secret"):
        assert secret not in caplog.text


@pytest.mark.parametrize("begin", [OK + b"\r\n", OK + b"Content-Length: 1000000000\r\n\r\n"])
async def test_an_endless_body_is_left_at_the_limit(
    client: Outbound, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr(outbound, "REST_SECONDS", 2 * ENOUGH)
    async with receiving(repeating(begin, b"a" * 65536)) as receiver, asyncio.timeout(ENOUGH):
        assert await client.post(f"http://127.0.0.1:{receiver.port}/", {}, b"", 2 * ENOUGH) == 200
        await receiver.all_closed.wait()


async def test_a_receiver_that_reads_nothing(client: Outbound) -> None:
    ended = asyncio.Event()

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        await silent(reader, writer)

    async with receiving(behaviour) as receiver:
        with pytest.raises(Failed) as caught:
            await client.post(f"http://127.0.0.1:{receiver.port}/", {}, bytes(30_000_000), SHORT)
        assert caught.value.kind == "timeout"
        ended.set()
        async with asyncio.timeout(ENOUGH):
            await receiver.all_closed.wait()


async def test_an_early_answer_counts_when_the_receiver_hangs_up(client: Outbound) -> None:
    """By RFC 9112 (9.6), a server that refuses a body may answer, and close once the client has had the answer."""

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.write_eof()
        while await reader.read(65536):
            pass

    async with receiving(behaviour) as receiver:
        assert await client.post(f"http://127.0.0.1:{receiver.port}/", {}, bytes(3_000_000), ENOUGH) == 413


async def test_the_log_names_the_host_only(client: Outbound, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="gateway.outbound")
    async with receiving(sending(b"", True)) as receiver:
        await kind_of(client, f"http://127.0.0.1:{receiver.port}/path-secret?query-secret")
    assert [record.message for record in caplog.records if record.name == "gateway.outbound"] == [
        "POST to 127.0.0.1: protocol (RemoteProtocolError)"
    ]


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving(answering("418 Proxy")) as proxy, receiving(answering("200 OK")) as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        client = Outbound(LOOPBACK)
        assert await client.post(f"http://127.0.0.1:{receiver.port}/", {}, b"", ENOUGH) == 200
        await client.close()
    assert proxy.connections == 0


async def test_tls_is_made_for_the_name_of_the_url(authority: Authority, names: Names) -> None:
    context = authority.server_context("hooks.example", "127.0.0.1")
    asked: list[str | None] = []
    context.set_servername_callback(lambda _socket, name, _context: asked.append(name))
    names.answers |= {"hooks.example": [["127.0.0.1"]], "other.example": [["127.0.0.1"]]}
    requests: list[Request] = []
    client = Outbound(LOOPBACK)
    async with receiving(answering("200 OK", requests), tls=context) as receiver:
        for host in ("hooks.example", "hooks.example.", "127.0.0.1"):
            url = client.check_url(f"https://{host}:{receiver.port}/")
            assert await client.post(url, {}, b"a" * 200_000, ENOUGH) == 200
        assert await kind_of(client, f"https://other.example:{receiver.port}/") == "tls"
        assert await kind_of(client, f"https://localhost:{receiver.port}/") == "unresolved"
        await client.close()
    assert asked == ["hooks.example", None, "other.example"]
    assert requests[0].headers["host"] == f"hooks.example:{receiver.port}"
    assert all(request.body == b"a" * 200_000 for request in requests)
    assert len(requests) == 3


async def test_a_certificate_of_an_authority_that_the_system_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = Authority(tmp_path)
    monkeypatch.setattr("certifi.where", lambda: str(unknown.file))  # whose list is not the system's
    client = Outbound(LOOPBACK)
    async with receiving(answering("200 OK"), tls=unknown.server_context("127.0.0.1")) as receiver:
        assert await kind_of(client, f"https://127.0.0.1:{receiver.port}/") == "tls"
        await client.close()


async def test_a_certificate_that_is_over(authority: Authority) -> None:
    client = Outbound(LOOPBACK)
    async with receiving(answering("200 OK"), tls=authority.server_context("127.0.0.1", days=-1)) as receiver:
        assert await kind_of(client, f"https://127.0.0.1:{receiver.port}/") == "tls"
        await client.close()


@pytest.mark.parametrize(
    ("behaviour", "seconds", "kind"),
    [
        pytest.param(silent, SHORT, "timeout", id="silent"),
        pytest.param(closing, ENOUGH, "tls", id="closes"),
        pytest.param(sending(b"HTTP/1.1 400 Bad\r\n\r\n", False), SHORT, "timeout", id="waits for a line"),
    ],
)
async def test_a_receiver_that_does_not_speak_tls(
    client: Outbound, behaviour: Behaviour, seconds: float, kind: str
) -> None:
    async with receiving(behaviour) as receiver:
        assert await kind_of(client, f"https://127.0.0.1:{receiver.port}/", seconds) == kind
        async with asyncio.timeout(ENOUGH):
            await receiver.all_closed.wait()


async def test_a_receiver_that_speaks_plain_http(client: Outbound) -> None:
    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await silent(reader, writer)

    async with receiving(behaviour) as receiver:
        assert await kind_of(client, f"https://127.0.0.1:{receiver.port}/") == "tls"
        async with asyncio.timeout(ENOUGH):
            await receiver.all_closed.wait()


async def test_a_receiver_that_wants_a_certificate_of_ours(authority: Authority) -> None:
    context = authority.server_context("127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.file)
    client = Outbound(LOOPBACK)
    # With TLS 1.3 the refusal comes after the handshake, and the end of the connection may overtake it.
    async with receiving(answering("200 OK"), tls=context) as receiver:
        assert await kind_of(client, f"https://127.0.0.1:{receiver.port}/") in ("tls", "protocol")
        await client.close()


async def test_a_receiver_that_breaks_tls_later(authority: Authority) -> None:
    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        os.write(writer.get_extra_info("socket").fileno(), b"no record of TLS")
        await silent(reader, writer)

    client = Outbound(LOOPBACK)
    async with receiving(behaviour, tls=authority.server_context("127.0.0.1")) as receiver:
        assert await kind_of(client, f"https://127.0.0.1:{receiver.port}/") == "tls"
        async with asyncio.timeout(ENOUGH):
            await receiver.all_closed.wait()


async def test_a_connection_serves_again_and_is_closed_when_idle(client: Outbound) -> None:
    body = bytes(outbound.ANSWER_LIMIT // 3)
    async with receiving(answering("200 OK", body=body)) as receiver:
        for _ in range(5):
            assert await client.post(f"http://127.0.0.1:{receiver.port}/", {}, b"{}", ENOUGH) == 200
        assert receiver.connections == 1
        async with asyncio.timeout(ENOUGH):
            await receiver.all_closed.wait()  # by nothing but time
        assert await client.post(f"http://127.0.0.1:{receiver.port}/", {}, b"{}", ENOUGH) == 200
        assert receiver.connections == 2


async def test_connections_to_so_many_origins_are_kept_and_later_to_others(
    client: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound, "IDLE_ORIGINS", 1)
    async with receiving(answering("200 OK")) as first, receiving(answering("200 OK")) as second:

        async def kept(receiver: Receiver) -> bool:
            before = receiver.connections
            for _ in range(2):
                assert await client.post(f"http://127.0.0.1:{receiver.port}/", {}, b"", ENOUGH) == 200
            return receiver.connections == before + 1

        assert await kept(first)
        assert not await kept(second)
        async with asyncio.timeout(ENOUGH):
            await first.all_closed.wait()
        await eventually(lambda: kept(second))


async def test_a_connection_that_the_receiver_closed_is_not_used_again(client: Outbound) -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with receiving(once) as receiver:
        for number in range(1, 4):
            assert await client.post(f"http://127.0.0.1:{receiver.port}/", {}, b"{}", ENOUGH) == 200
            await receiver.all_closed.wait()
            await asyncio.sleep(0)
            assert receiver.connections == number


async def test_a_slow_receiver_does_not_delay_another(client: Outbound) -> None:
    async with receiving(silent) as slow, receiving(answering("200 OK")) as quick:
        waiting = [
            asyncio.create_task(client.post(f"http://127.0.0.1:{slow.port}/", {}, b"", ENOUGH)) for _ in range(50)
        ]
        while slow.connections < 50:
            slow.met.clear()
            await slow.met.wait()
        assert await client.post(f"http://127.0.0.1:{quick.port}/", {}, b"", ENOUGH) == 200
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        async with asyncio.timeout(ENOUGH):
            await slow.all_closed.wait()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_cancelled_request_closes_its_connection(client: Outbound, scheme: str) -> None:
    async with receiving(silent) as receiver:
        task = asyncio.create_task(client.post(f"{scheme}://127.0.0.1:{receiver.port}/", {}, b"", ENOUGH))
        await receiver.met.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(ENOUGH):
            await receiver.all_closed.wait()


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A name service that is silent until this is set, and then says 127.0.0.1."""
    answer = threading.Event()

    def look_up(host: str, port: int | None, **_: Any) -> list[Any]:
        answer.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port or 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield answer
    answer.set()


def threads() -> int:
    return sum(thread.name == "outbound-lookup" for thread in threading.enumerate())


async def test_a_silent_name_service_takes_a_few_threads_and_none_of_the_others(
    hanging: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "LOOKUPS", 3)
    client = Outbound(LOOPBACK)
    async with receiving(answering("200 OK")) as receiver:
        url = f"http://name.example:{receiver.port}/"
        kinds = await asyncio.gather(*(kind_of(client, url, SHORT) for _ in range(10)))
        assert kinds == ["timeout"] * 10
        assert threads() == 3
        assert await asyncio.to_thread(lambda: "free") == "free"
        assert await client.post(f"http://127.0.0.1:{receiver.port}/", {}, b"", ENOUGH) == 200  # has no name to look up
        hanging.set()
        assert await client.post(url, {}, b"", ENOUGH) == 200
        await client.close()
    eventually_true(lambda: threads() == 0)


async def test_slow_name_servers_of_one_keep_no_other_waiting(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "LOOKUPS_OF_ONE", 3)
    quick, answer = socket.getaddrinfo, threading.Event()

    def look_up(host: str, port: int | None, **options: Any) -> list[Any]:
        if host.endswith("slow.example"):
            answer.wait(60)
        return quick(host, port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    names.answers["quick.example"] = [["127.0.0.1"]]
    client = Outbound(LOOPBACK)
    async with receiving(answering("200 OK")) as receiver:
        slow = [
            asyncio.create_task(client.post(f"http://{number}.slow.example/", {}, b"", ENOUGH, "a"))
            for number in range(20)
        ]

        async def all_that_may() -> bool:
            return threads() == 3

        await eventually(all_that_may)
        url = f"http://quick.example:{receiver.port}/"
        assert await client.post(url, {}, b"", ENOUGH, "b") == 200
        with pytest.raises(Failed):
            await client.post(url, {}, b"", SHORT, "a")
        assert threads() == 3
        answer.set()
        ends = await asyncio.gather(*slow, return_exceptions=True)
        assert {end.kind for end in ends if isinstance(end, Failed)} == {"unresolved"}
        assert await client.post(url, {}, b"", ENOUGH, "a") == 200
        await client.close()


async def test_connections_are_shared_with_no_other(client: Outbound) -> None:
    async with receiving(answering("200 OK")) as receiver:
        for of, connections in (("a", 1), ("b", 2), ("a", 2)):
            assert await client.post(f"http://127.0.0.1:{receiver.port}/", {}, b"", ENOUGH, of) == 200
            assert receiver.connections == connections


async def test_a_system_without_threads_takes_nothing_for_good(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    names.answers["name.example"] = [["127.0.0.1"]]
    client = Outbound(LOOPBACK)
    async with receiving(answering("200 OK")) as receiver:
        url = f"http://name.example:{receiver.port}/"
        monkeypatch.setattr(lookups, "LOOKUPS", 1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            for _ in range(3):
                assert await kind_of(client, url) == "unresolved"
        assert await client.post(url, {}, b"", ENOUGH) == 200
        await client.close()


def test_a_loop_may_end_while_a_name_is_looked_up(hanging: threading.Event) -> None:
    async def ask() -> str:
        return await kind_of(Outbound(), "http://name.example/", SHORT)

    assert asyncio.run(ask()) == "timeout"
    hanging.set()
    eventually_true(lambda: threads() == 0)  # an exception in the thread would be a warning, and an error


@pytest.mark.parametrize("kind", outbound.TEXTS)
def test_each_kind_has_a_text(kind: str) -> None:
    assert Failed(kind).kind == kind
    assert str(Failed(kind))

"""What is sent: mostly requests that could be right, then bent at random."""

import json
import random
import re
from typing import Any, NamedTuple

ENDPOINTS = ["e0", "e1", "e2", "e3", "access", "default"]
WORKERS = ["w0", "w1", "w.2", "upkeep"]
MOST_KEPT = 300

ODD_TEXTS = [
    "", " ", "\0", "\n", "a\r\nb", "é", "\ud800", "\U0001f600", "/", "..", ".", "*", "?", "[a]", "{}", "{access}", "%", "%s",
    "-", "-1", "0", "1e9", "NaN", "null", "true", "a/b", "a:b", "a b", "+inf", "x" * 300, "x" * 5000, "٣", "²",
    "18446744073709551616", "9" * 15, "9" * 400,
]  # fmt: skip
ODD_NUMBERS = [
    0, -1, 1, 1.5, -0.0, 1e-320, 1e19, 1.8446744073709552e19, 1e300, 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64,
    -(2**63) - 1, 10**30, 10**400, float("nan"), float("inf"), 4_999, 604_800_001,
]  # fmt: skip
ODD_VALUES = [*ODD_TEXTS, *ODD_NUMBERS, None, True, False, [], {}, [[]], {"": None}, [{}] * 20, {"a": {"b": [1]}}]
ODD_BODIES = [
    b"", b" ", b"{", b"}", b"[", b"null", b"true", b"1", b'"x"', b"[]", b"{}", b"{}{}", b"\xff", b"\xef\xbb\xbf{}", b'{"a":}',
    b'{"input":"\xff"}', b'{"input":"\\q"}', b'{"input":"\\ud800"}', b'{"\\ud800":1}', b'{"input":1,"input":2}',
    b'{"input":01}', b'{"input":1,}', b'{"input":"\0"}', b'{"input":"\t"}', b'{"input":1}\0', b'{"input":NaN}',
    b"[" * 100_000, b'{"a":' * 50_000, b'{"input":' + b"[" * 900 + b"]" * 900 + b"}", b'{"input":' + b"9" * 5000 + b"}",
    b'{"input":1,"policy":{"\\ud800":1}}', b'{"input":1,"webhook":"\\ud800"}', b'{"input":1,"policy":{"ttl":"\\q"}}',
    b'{"error":"\\q"}', b'{"error":"\\ud800"}', b'{"output":"\\q"}', b'{"output":NaN,"x":"\\q"}', b'["\\q"]', b'["\xff"]',
    b'{"id":"w0","description":{"gpu":"\\ud800","sdk":"\\q"}}', b'{"error":"' + b"x" * 20_000 + b'"}', b"x" * 300_000,
    b'{"attempts":[' + b'["a",1],' * 9_999 + b'["a",1]]}', b"[" + b"1," * 999 + b"1]", b"[" + b"1," * 1000 + b"1]",
    b'{"gone_ms":1000,"concurrency":1,"state":"ready","attempts":[' + b'["a",1],' * 9_999 + b'["a",1]]}',
]  # fmt: skip
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "QUERY", "X"]
HEADERS = [
    ("Accept", "text/event-stream"), ("Accept", "application/x-runlane-jobs"), ("Content-Type", "text/plain"),
    ("Expect", "100-continue"), ("Expect", "x"), ("Last-Event-ID", "1"), ("Idempotency-Key", "one"), ("Host", ""),
    ("Host", "[::1"), ("Origin", "null"), ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Upgrade", "h2c"),
    ("Connection", "close"), ("Content-Encoding", "gzip"), ("X-Forwarded-For", "1.2.3.4, x"), ("Cookie", "a=b"),
    ("Content-Length", "0"), ("Content-Length", "-1"), ("Content-Length", "1" * 30), ("Transfer-Encoding", "chunked"),
    ("Transfer-Encoding", "gzip, chunked"), ("X-API-Key", "rl-a"), ("Authorization", "Basic eDp5"), ("Range", "bytes=0-"),
]  # fmt: skip
HEADERS_WITH_TEXT = ["Last-Event-ID", "Idempotency-Key", "Accept", "Authorization", "X-API-Key", "Host", "Content-Type", "A"]
QUERIES = ["wait", "ttl", "limit", "cursor", "status", "from", "batch_size", "attempt", "first", "isStream", "job_id", "check",
           "job_in_progress", "reason", "gpu", "runpod_version"]  # fmt: skip
QUERY_VALUES = ["0", "1", "10", "1000", "10000", "COMPLETED", "1.1", "1700000000000.3", "unhealthy", "true", "a,b,,c"]

OFTEN = {("/v2/{endpoint}/run", "POST"): 4, ("/v2/{endpoint}/job-take/{worker}", "GET"): 3, ("/v1/endpoints", "POST"): 2}

_ENDS = {"expiresInSeconds": 60}
SHAPES: dict[str, list[Any]] = {
    "run": [
        {"input": {"prompt": "x"}}, {"input": None, "webhook": "http://x/", "s3Config": {}},
        {"input": [1], "policy": {"executionTimeout": 5000, "ttl": 10000, "lowPriority": True}},
    ],
    "endpoints": [
        {"id": "e0", "leaseSeconds": 1, "attempts": 2}, {"id": "e1", "maxQueued": 5, "env": {"A": "1"}},
        {"id": "e2", "executionTimeoutMs": 5000, "retryDelaySeconds": 0.1}, {"id": "access"}, {"id": "e3", "workersMax": 0},
    ],
    "keys": [
        {**_ENDS}, {"scopes": ["read"], **_ENDS}, {"scopes": ["worker"], "endpoints": ["e0"], **_ENDS},
        {"scopes": ["admin", "manage"], "name": "n", "rate": 5, "weight": 3, **_ENDS},
    ],
    "rotate": [{}, {"overlapSeconds": 0}, {"overlapSeconds": 1.5}],
    "workers": [
        {}, {"id": "w0", "link": "http", "description": {"gpu": "x"}}, {"id": "w1", "restarted": True},
    ],
    "ping": [{"gone_ms": 1000, "concurrency": 2, "state": "ready", "description": {"sdk": "x"}, "attempts": [["j", 1]]}],
    "job-return": [{"attempts": [["j", 1]], "number": 3}],
    "job-lost": [{"error": "gone"}],
    "job-stream": [{"output": "x" * 2500}, {"output": {"a": 1}}, [1, "x", {"y": [None]}]],
    "job-done": [
        {"output": {"a": 1}}, {"error": "x"}, {"error": {"message": "m", "code": 429}}, {"output": [], "stopPod": True},
        {"status": "IN_PROGRESS", "output": 1}, {"output": "text"}, {}, {"error": '{"error_message": ["x"]}'},
    ],
    "openai": [{"model": "m", "stream": True}, {"model": "m", "messages": [{"role": "user", "content": "x"}]}],
}  # fmt: skip


class Known:
    """What the answers have told so far: ids that exist, and keys that are good, or were."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys
        self.made_keys: list[str] = []
        self.key_ids = ["k0"]
        self.jobs = [(keys[0], ENDPOINTS[0], "no-such-job")]

    def learn(self, request: "Request", body: bytes) -> None:
        """Takes what can be used again from an answer."""
        jobs = [(request.key, request.endpoint, job) for job in _found(rb'"id":"((?:sync-)?[0-9a-f-]{36})"', body)]
        _keep(self.jobs, jobs)
        _keep(self.key_ids, _found(rb'"id":"(k[0-9a-f]{16})"', body))
        _keep(self.made_keys, _found(rb'"(?:workerKey|key)":"(rlw?_[\w-]+)"', body))


def _found(pattern: bytes, body: bytes) -> list[str]:
    return [found.decode() for found in re.findall(pattern, body[:20_000])[:5]]


def _keep(kept: list[Any], more: list[Any]) -> None:
    kept += more
    del kept[: -MOST_KEPT]


class Request(NamedTuple):
    """`data`: all of it; `path`: of the table; `key` and `endpoint`: those that it was made with, if it was not bent;
    `is_whole`: whether an answer has to come; `may_wait`: whether that may wait for a job."""

    data: bytes
    method: str
    path: str
    key: str
    endpoint: str
    is_whole: bool
    may_wait: bool


class Maker:
    """Makes requests for the operations of a table: paths with {names} in them, and the methods of each."""

    def __init__(self, table: dict[str, tuple[str, ...]], known: Known, seed: int) -> None:
        self._operations = [
            (path, method)
            for path, methods in table.items() for method in methods for _ in range(OFTEN.get((path, method), 1))
        ]  # fmt: skip
        self._known = known
        self._random = random.Random(seed)  # noqa: S311

    def request(self) -> Request:
        """The next one."""
        random = self._random
        path, method = random.choice(self._operations)
        if method == "DELETE" and path.startswith("/v1/endpoints") and random.random() < 0.7:
            method = "GET"  # else there would seldom be an endpoint
        name = path.split("/")[3] if path.startswith("/v2/") else path.rpartition("/")[2].replace("{endpoint}", "endpoints")
        sent = random.choice(METHODS) if random.random() < 0.03 else method
        key, endpoint, job = random.choice(self._known.jobs)
        if "{job}" not in path or random.random() < 0.3:
            key, endpoint = self._key(), random.choice(ENDPOINTS)
        target = self._target(path, endpoint, job)
        body = self._body(name) if sent not in ("GET", "HEAD") or random.random() < 0.05 else b""
        headers = self._headers(name, key)
        query = self._query(name)
        may_wait = name in ("runsync", "status-sync", "stream", "openai")
        data, is_whole = self._framed(sent, target + query, headers, body)
        return Request(data, sent, path, key, endpoint, is_whole, may_wait)

    def _target(self, path: str, endpoint: str, job: str) -> str:
        target = re.sub(r"{(\w+)[^}]*}", lambda found: self._parameter(found[1], endpoint, job), path)
        if self._random.random() < 0.03:
            target = self._bent(target)
        return target

    def _parameter(self, name: str, endpoint: str, job: str) -> str:
        random = self._random
        if random.random() < 0.05:
            return self._escaped(random.choice(ODD_TEXTS))
        choices = {
            "endpoint": [endpoint], "worker": WORKERS, "job": [job], "key": self._known.key_ids,
            "path": ["v1/chat/completions", "v1/models", "v1/..", "v2/x", "v1/x%2Fy", "v1//", "v1/x?y=1&wait=2"],
        }  # fmt: skip
        return random.choice(choices.get(name, ODD_TEXTS[:1]))

    def _bent(self, target: str) -> str:
        random = self._random
        at = random.randrange(len(target))
        return random.choice([
            target.replace("/", "%2F"), target.replace("/", "//"), target + "/", target[:at], target[at:] or "/",
            target[:at] + "%" + target[at:], target[:at] + "%00" + target[at:], target[:at] + "%ff%fe" + target[at:],
            "http://other" + target, "*", target + "#x", target[:at] + "é" + target[at:], target.upper(), target + "/x/y",
            target.replace("/v2/", "/v2/../v2/"), "/" + "a/" * 2000, target[:at] + "?" + target[at:],
        ])  # fmt: skip

    def _escaped(self, text: str) -> str:
        if self._random.random() < 0.1:
            return re.sub(r"[\s\0]", "", text) or "x"
        return "".join(f"%{byte:02x}" for byte in text.encode("utf-8", "surrogatepass")[:2000])

    def _query(self, name: str) -> str:
        random = self._random
        found = []
        if name in ("runsync", "status-sync"):
            found.append("wait=1000")
        elif name in ("job-take", "job-take-batch", "job-stop"):
            found.append(f"wait={random.choice([0, 0, 5, 100])}")
        elif name == "job-done" or name == "job-stream":
            found += random.sample([f"attempt={random.randint(1, 2)}", "isStream=true", "first=1"], random.randint(0, 2))
        while random.random() < 0.15:
            field = random.choice([field for field in QUERIES if field != "wait" or not found])
            value = random.choice(QUERY_VALUES) if random.random() < 0.6 else self._escaped(random.choice(ODD_TEXTS))
            found.append(f"{field}={value}" if random.random() < 0.95 else field)
        return "?" + "&".join(found) if found else ""

    def _key(self) -> str:
        random = self._random
        chance = random.random()
        if chance < 0.15 and self._known.made_keys:
            return random.choice(self._known.made_keys)
        return random.choice(["", "wrong", "é", "x" * 5000, "a:b"] if chance < 0.2 else self._known.keys)

    def _headers(self, name: str, key: str) -> list[tuple[str, str]]:
        random = self._random
        headers = [("Host", "x"), ("Authorization", f"Bearer {key}" if random.random() < 0.8 else key)]
        if name == "job-take-batch" and random.random() < 0.5:
            headers.append(("Accept", "application/x-runlane-jobs"))
        if name == "run" and random.random() < 0.1:
            headers.append(("Idempotency-Key", random.choice("abc")))
        while random.random() < 0.08:
            headers.append(random.choice(HEADERS))
        if random.random() < 0.03:
            text = re.sub(r"[\r\n]", "", random.choice(ODD_TEXTS))
            headers.append((random.choice(HEADERS_WITH_TEXT), text))
        random.shuffle(headers)
        return headers

    def _body(self, name: str) -> bytes:
        random = self._random
        if random.random() < 0.12:
            return random.choice(ODD_BODIES)
        shapes = SHAPES.get("run" if name == "runsync" else name)
        if shapes is None or random.random() < 0.03:
            shapes = random.choice(list(SHAPES.values()))
        value = random.choice(shapes)
        for _ in range(random.choice([0, 0, 0, 1, 1, 2, 4])):
            value = self._changed(value)
        body = json.dumps(value, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
        return self._damaged(body) if random.random() < 0.05 else body

    def _changed(self, value: Any) -> Any:
        """The value with something odd somewhere in it."""
        random = self._random
        if random.random() < 0.25:
            if isinstance(value, dict):
                return {**value, self._odd_name(): random.choice(ODD_VALUES)}
            return random.choice(ODD_VALUES)
        if isinstance(value, dict) and value:
            name = random.choice(list(value))
            return {**value, name: self._changed(value[name])}
        if isinstance(value, list) and value:
            return [*value[:-1], self._changed(value[-1]), *([value[0]] * random.choice([0, 0, 1, 1100]))]
        return random.choice(ODD_VALUES)

    def _odd_name(self) -> str:
        shape = self._random.choice(self._random.choice(list(SHAPES.values())))
        names = [*shape, *ODD_TEXTS] if isinstance(shape, dict) else ODD_TEXTS
        return self._random.choice(names)

    def _damaged(self, body: bytes) -> bytes:
        random = self._random
        at = random.randrange(len(body) + 1)
        what = random.choice([b"", b"\0", b"\xff", b"\\", b'"', b"\\u", b"[", b"}", b",", b"\xed\xa0\x80", bytes([random.randrange(256)])])
        return body[:at] + what + body[at + random.choice([0, 0, 1, 1000]) :]

    def _framed(self, method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> tuple[bytes, bool]:
        random = self._random
        is_whole, names = True, {name for name, _ in headers}
        if names & {"Content-Length", "Transfer-Encoding", "Upgrade", "Expect"} or method == "CONNECT":
            is_whole = False  # what these do to a request is its sender's business
        if body or method in ("POST", "PUT", "PATCH"):
            if random.random() < 0.05:
                headers = [*headers, ("Transfer-Encoding", "chunked")]
                half = len(body) // 2
                pieces = [piece for piece in (body[:half], body[half:]) if piece]
                body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
            else:
                headers = [*headers, ("Content-Length", str(len(body)))]
        version = "HTTP/1.1"
        if random.random() < 0.01:
            version, is_whole = random.choice(["HTTP/1.0", "HTTP/2.0", "HTTP/9", "", "HTTP/1.1 x"]), False
        lines = [f"{method} {target} {version}", *(f"{name}: {value}" for name, value in headers)]
        data = "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + body
        if random.random() < 0.02:
            is_whole, data = False, random.choice([data[: random.randrange(len(data))], data + data[:200], data[10:]])
        return data, is_whole

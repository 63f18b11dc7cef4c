"""What is sent: mostly requests that could be right, then bent at random."""

import json
import random
import re
from typing import Any, NamedTuple

from .odd import (
    DAMAGE,
    ENDPOINTS,
    ENTRIES,
    HEADERS,
    HEADERS_WITH_TEXT,
    METHODS,
    ODD_BODIES,
    ODD_TEXTS,
    ODD_VALUES,
    OFTEN,
    QUERIES,
    QUERIES_OF,
    QUERY_VALUES,
    QUEUES,
    SHAPES,
    VAULTS,
    WORKERS,
)

MOST_KEPT = 300
SELDOM_DELETED = ("/v1/endpoints/{endpoint}", "/api/vaults/{vault}")


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
    del kept[:-MOST_KEPT]


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
        self._random = random.Random(seed)

    def request(self) -> Request:
        """The next one."""
        random = self._random
        path, method = random.choice(self._operations)
        if method == "DELETE" and path in SELDOM_DELETED and random.random() < 0.7:
            method = "GET"  # else there would seldom be one
        name = path.split("/")[3 if path.startswith("/v2/") else -1].replace("{endpoint}", "update")
        sent = random.choice(METHODS) if random.random() < 0.03 else method
        key, endpoint, job = random.choice(self._known.jobs)
        if not re.search("{(job|task|delivery)}", path) or random.random() < 0.3:
            key, endpoint = self._key(), random.choice(ENDPOINTS)
        target = self._target(path, endpoint, job)
        body = self._body(name) if sent not in ("GET", "HEAD") or random.random() < 0.05 else b""
        headers = self._headers(name, key)
        query = self._query(name)
        may_wait = name in ("runsync", "status-sync", "stream", "openai", "{task}")
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
            "endpoint": [endpoint], "worker": WORKERS, "job": [job], "task": [job], "key": self._known.key_ids,
            "delivery": [f"msg_{job}_1"], "vault": VAULTS, "entry": ENTRIES,
            "queue": [*QUEUES, endpoint, f"{endpoint}.high"],
            "path": ["v1/chat/completions", "v1/models", "v1/..", "v2/x", "v1/x%2Fy", "v1//", "v1/x?y=1&wait=2"],
        }  # fmt: skip
        return random.choice(choices.get(name, ODD_TEXTS[:1]))

    def _bent(self, target: str) -> str:
        random = self._random
        at = random.randrange(len(target))
        return random.choice([
            target.replace("/", "%2F"), target.replace("/", "//"), target + "/", target[:at], target[at:] or "/",
            target[:at] + "%" + target[at:], target[:at] + "%00" + target[at:], target[:at] + "%ff%fe" + target[at:],
            "http://other" + target, "*", target + "#x", target[:at] + "é" + target[at:], target.upper(),
            target + "/x/y", target.replace("/v2/", "/v2/../v2/"), "/" + "a/" * 2000, target[:at] + "?" + target[at:],
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
        elif name in ("job-done", "job-stream"):
            possible = [f"attempt={random.randint(1, 2)}", "isStream=true", "first=1"]
            found += random.sample(possible, random.randint(0, 2))
        while random.random() < 0.2:
            fields = QUERIES_OF.get(name, QUERIES) if random.random() < 0.7 else QUERIES
            field = random.choice([field for field in fields if field != "wait" or not found])
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
        if name == "stream" and random.random() < 0.5:
            headers.append(("Accept", "text/event-stream"))
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
        shapes = SHAPES.get({"runsync": "run", "tasks": "add"}.get(name, name))
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
        return body[:at] + random.choice(DAMAGE) + body[at + random.choice([0, 0, 1, 1000]) :]

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

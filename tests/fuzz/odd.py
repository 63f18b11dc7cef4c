"""What requests are made of: what could be right, and what is odd."""

from typing import Any

ENDPOINTS = ["e0", "e1", "e2", "e3", "access", "default"]
WORKERS = ["w0", "w1", "w.2", "upkeep"]
VAULTS = ["v0", "v.1", "access"]
ENTRIES = ["A", "b_2"]
QUEUES = ["e0", "e0.default", "e1.high", "e2_high", "e3.default"]

ODD_TEXTS = [
    "", " ", "\0", "\n", "a\r\nb", "é", "\ud800", "\U0001f600", "/", "..", ".", "*", "?", "[a]", "{}", "{access}", "%",
    "%s", "-", "-1", "0", "1e9", "NaN", "null", "true", "a/b", "a:b", "a b", "+inf", "x" * 300, "x" * 5000, "٣", "²",
    "18446744073709551616", "9" * 15, "9" * 400,
]  # fmt: skip
ODD_NUMBERS = [
    0, -1, 1, 1.5, -0.0, 1e-320, 1e19, 1.8446744073709552e19, 1e300, 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64,
    -(2**63) - 1, 10**30, 10**400, float("nan"), float("inf"), 4_999, 604_800_001,
]  # fmt: skip
ODD_VALUES = [*ODD_TEXTS, *ODD_NUMBERS, None, True, False, [], {}, [[]], {"": None}, [{}] * 20, {"a": {"b": [1]}}]
ODD_BODIES = [
    b"", b" ", b"{", b"}", b"[", b"null", b"true", b"1", b'"x"', b"[]", b"{}", b"{}{}", b"\xff", b"\xef\xbb\xbf{}",
    b'{"a":}', b'{"input":"\xff"}', b'{"input":"\\q"}', b'{"input":"\\ud800"}', b'{"\\ud800":1}',
    b'{"input":1,"input":2}', b'{"input":01}', b'{"input":1,}', b'{"input":"\0"}', b'{"input":"\t"}',
    b'{"input":1}\0', b'{"input":NaN}',
    b"[" * 100_000, b'{"a":' * 50_000, b'{"input":' + b"[" * 900 + b"]" * 900 + b"}", b'{"input":' + b"9" * 5000 + b"}",
    b'{"input":1,"policy":{"\\ud800":1}}', b'{"input":1,"webhook":"\\ud800"}', b'{"input":1,"policy":{"ttl":"\\q"}}',
    b'{"error":"\\q"}', b'{"error":"\\ud800"}', b'{"output":"\\q"}', b'{"output":NaN,"x":"\\q"}', b'["\\q"]',
    b'["\xff"]', b'{"id":"w0","description":{"gpu":"\\ud800","sdk":"\\q"}}', b'{"error":"' + b"x" * 20_000 + b'"}',
    b"x" * 300_000, b'{"attempts":[' + b'["a",1],' * 9_999 + b'["a",1]]}', b"[" + b"1," * 999 + b"1]",
    b"[" + b"1," * 1000 + b"1]",
    b'{"gone_ms":1000,"concurrency":1,"state":"ready","attempts":[' + b'["a",1],' * 9_999 + b'["a",1]]}',
]  # fmt: skip
DAMAGE = [b"", b"\0", b"\xff", b"\\", b'"', b"\\u", b"[", b"}", b",", b"\xed\xa0\x80", b"e", b"-"]
METHODS = [
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "QUERY", "X",
]  # fmt: skip
HEADERS = [
    ("Accept", "text/event-stream"), ("Accept", "application/x-runlane-jobs"), ("Content-Type", "text/plain"),
    ("Expect", "100-continue"), ("Expect", "x"), ("Last-Event-ID", "1"), ("Idempotency-Key", "one"), ("Host", ""),
    ("Host", "[::1"), ("Origin", "null"), ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Upgrade", "h2c"),
    ("Connection", "close"), ("Content-Encoding", "gzip"), ("X-Forwarded-For", "1.2.3.4, x"), ("Cookie", "a=b"),
    ("Content-Length", "0"), ("Content-Length", "-1"), ("Content-Length", "1" * 30), ("Transfer-Encoding", "chunked"),
    ("Transfer-Encoding", "gzip, chunked"), ("X-API-Key", "rl-a"), ("Authorization", "Basic eDp5"),
    ("Range", "bytes=0-"),
]  # fmt: skip
HEADERS_WITH_TEXT = [
    "Last-Event-ID", "Idempotency-Key", "Accept", "Authorization", "X-API-Key", "Host", "Content-Type", "A",
]  # fmt: skip
QUERIES = [
    "wait", "ttl", "limit", "cursor", "status", "from", "batch_size", "attempt", "first", "isStream", "job_id",
    "check", "job_in_progress", "reason", "gpu", "runpod_version", "state", "force", "timeout",
]  # fmt: skip
QUERIES_OF = {
    "stream": ["from"], "requests": ["limit", "cursor", "status"], "workers": ["limit", "cursor"], "status": ["ttl"],
    "run": ["ttl"], "job-take-batch": ["batch_size"], "job-done": ["attempt", "isStream"], "ping": ["job_id", "status"],
    "job-stream": ["attempt", "first"], "configs": ["force", "deleted"], "queues": ["force", "deleted"],
    "tasks": ["state", "limit", "cursor"], "{task}": ["wait", "timeout"], "{queue}": ["force"],
    "logs": ["n"],
}  # fmt: skip
QUERY_VALUES = [
    "0", "1", "10", "1000", "10000", "9" * 9, "9" * 15, "9" * 16, "1.1", "1700000000000.3", "9999999999999999.0",
    "COMPLETED", "unhealthy", "true", "a,b,,c", "", "archived", "completed", "scheduled",
]  # fmt: skip

OFTEN = {
    ("/v2/{endpoint}/run", "POST"): 4,
    ("/v2/{endpoint}/job-take/{worker}", "GET"): 3,
    ("/v1/endpoints", "POST"): 2,
    ("/api/vaults", "POST"): 2,
    ("/api/cli/configs", "POST"): 2,
    ("/queue/add", "POST"): 2,
}
"""Operations that others need."""

_ENDS = {"expiresInSeconds": 60}
# For each operation, bodies that it takes.
_DEPLOYMENT = {"git_url": "u", "startup_cmd": "c", "git_token": "t", "limits": {"ttl_archived": "1h"}}
_QUEUES = [
    {"name": "e0", "priority": 3, "deployment": _DEPLOYMENT},
    {"name": "e1.high", "priority": 9},
    {"name": "e2", "sub_queues": [{"name": "high", "priority": 2}], "deployment": {"git_url": "u", "startup_cmd": "c"}},
    {"name": "e3", "priority": 1, "input": [{"name": "a", "type": ["int"], "default": 1}], "autoscale": {"a": 1}},
]
SHAPES: dict[str, list[Any]] = {
    "run": [
        {"input": {"prompt": "x"}}, {"input": None, "webhook": "https://x.invalid/", "s3Config": {}},
        {"input": [1], "policy": {"executionTimeout": 5000, "ttl": 10000, "lowPriority": True}},
    ],
    "endpoints": [
        {"id": "e0", "leaseSeconds": 1, "attempts": 2}, {"id": "e1", "maxQueued": 5, "env": {"A": "1"}},
        {"id": "e2", "executionTimeoutMs": 5000, "retryDelaySeconds": 0.1}, {"id": "access"},
        {"id": "e3", "workersMax": 0},
        {"id": "e0", "queue": {"sub_queues": [{"name": "high", "priority": 2}, {"name": "default", "priority": 1}]}},
        {"id": "e1", "queue": {"input": [{"name": "prompt", "type": ["string"]}], "starvation_seconds": 1}},
    ],
    "add": [
        {"queue": "e0", "data": {"prompt": "x"}}, {"queue": "e1", "prompt": "x", "timeout": 5},
        {"queue": "e0.high", "data": 1, "delay": 0.1, "unique": True}, {"queue": "e0_high", "data": None},
        {"queue": "e0", "data": {}, "unique": "k"}, {"queue": "e2", "data": [1], "run_at": "2026-01-01T00:00:00Z"},
    ],
    "add-batch": [
        {"queue": "e0", "jobs": [{"data": {"prompt": "x"}}]},
        {"queue": "e1", "timeout": 1, "jobs": [{"prompt": "x"}] * 9},
        {"queue": "e0.high", "jobs": [{"data": 1, "timeout": 3, "delay": 0.5}, {"data": 2, "unique": "a"}]},
    ],
    "update": [{"attempts": 2}, {"workersMax": 5, "leaseSeconds": 2}, {"maxQueued": 0}, {"idleTimeout": 3600}],
    "keys": [
        {**_ENDS}, {"scopes": ["read"], **_ENDS}, {"scopes": ["worker"], "endpoints": ["e0"], **_ENDS},
        {"scopes": ["admin", "manage"], "name": "n", "rate": 5, "weight": 3, **_ENDS},
    ],
    "webhook-secrets": [{}, {"overlapSeconds": 0}],
    "rotate": [{}, {"overlapSeconds": 0}, {"overlapSeconds": 1.5}],
    "vaults": [{"name": "v0", "description": "x"}, {"name": "v.1"}],
    "entries": [{"key": "A", "value": "x"}, {"key": "b_2", "value": "x" * 2000, "is_secret": False}],
    "configs": _QUEUES,
    "queues": _QUEUES,
    "register": [{"queue": "e0"}, {"queue": "e1.high", "hostname": "h"}, {"queue": "e2_high", "worker_id": "w"}],
    "workers": [
        {}, {"id": "w0", "link": "http", "description": {"gpu": "x"}}, {"id": "w1", "restarted": True},
    ],
    "ping": [
        {"gone_ms": 1000, "concurrency": 2, "state": "ready", "description": {"sdk": "x"}, "attempts": [["j", 1]]},
    ],
    "tell": [
        {"run": "a", "first": 1, "lines": [[0, "stdout", "x"], [5, "stderr", "y"]]},
        {"run": "b", "metrics": {"cpu_percent": 1.5, "memory_used_bytes": 1, "memory_total_bytes": 2, "gpus": []}},
    ],
    "job-return": [{"attempts": [["j", 1]], "number": 3}],
    "job-lost": [{"error": "gone"}],
    "job-stream": [{"output": "x" * 2500}, {"output": {"a": 1}}, [1, "x", {"y": [None]}]],
    "job-done": [
        {"output": {"a": 1}}, {"error": "x"}, {"error": {"message": "m", "code": 429}}, {"output": [], "stopPod": True},
        {"status": "IN_PROGRESS", "output": 1}, {"output": "text"}, {}, {"error": '{"error_message": ["x"]}'},
    ],
    "openai": [{"model": "m", "stream": True}, {"model": "m", "messages": [{"role": "user", "content": "x"}]}],
}  # fmt: skip

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.engine.queue_config import Deployment, QueueConfig
from gateway.queue_files import Files, Parsed, parse, read

from ..stores import Server
from .clients import bearer
from .processes import Gateway
from .test_serve import refused
from .waiting import eventually

WHOLE = """
queues:
  inference:
    priority: 6
    sub_queues: [{name: premium, priority: 10}, {name: standard, priority: 3}]
    input:  [{name: prompt, type: [string], required: true, default: null, description: "what to say"}]
    output: [{name: image, type: [string]}]
    deployment:
      git_url: https://git.example/code.git
      branch: stable
      code_path: sub/dir
      startup_cmd: python main.py
      mode: one_shot
      startup_timeout_secs: 300
      redis_storage: true
      requirements_file: needs.txt
      vaults: [api-keys, more]
      git_token: vault://git/TOKEN
      limits: {max_retry: 3, ttl_completed: 24h, ttl_archived: 1h30m, pending_timeout: 0, active_timeout: "0"}
    autoscale:
      enabled: true
      provider: my-runpod
      scale_up: [{trigger: queue_depth, threshold: 10}, {trigger: schedule, cron: "0 8 * * 1-5", workers: 2}]
"""
DEPLOYMENT = "deployment: {git_url: https://git.example/c.git, startup_cmd: python main.py}"
SMALL = "queues: {small: {priority: 2, " + DEPLOYMENT + "}}"


def of(text: str, name: str = "a.yaml") -> Parsed:
    return parse(Files({name: text.encode()}))


def with_fields(fields: str, name: str = "x") -> str:
    return f"queues: {{{name}: {{{fields}}}}}"


# what the files say


def test_every_field_is_taken() -> None:
    parsed = of(WHOLE)
    assert parsed.errors == []
    found = msgspec.to_builtins(parsed.queues["inference"].over(None, from_files=True))
    assert [(each["name"], each["priority"]) for each in found.pop("sub_queues")] == [("premium", 10), ("standard", 3)]
    assert found == {
        "description": "",
        "input": [
            {"name": "prompt", "type": ["string"], "required": True, "default": None, "description": "what to say"}
        ],
        "output": [{"name": "image", "type": ["string"], "required": True, "default": None, "description": ""}],
        "deployment": {
            "git_url": "https://git.example/code.git", "branch": "stable", "code_path": "sub/dir",
            "startup_cmd": "python main.py", "mode": "one_shot", "startup_timeout_secs": 300, "redis_storage": True,
            "requirements_file": "needs.txt", "vaults": ["api-keys", "more"], "git_token": "vault://git/TOKEN",
            "limits": {"max_retry": 3, "ttl_completed": "24h", "ttl_archived": "1h30m", "pending_timeout": 0,
                       "active_timeout": "0"},
        },
        "autoscale": {
            "enabled": True, "provider": "my-runpod",
            "scale_up": [{"trigger": "queue_depth", "threshold": 10},
                         {"trigger": "schedule", "cron": "0 8 * * 1-5", "workers": 2}],
        },
        "starvation_seconds": 0.0,
    }  # fmt: skip


def test_a_queue_without_sub_queues_is_its_default() -> None:
    config = of(SMALL).queues["small"].over(None, from_files=True)
    assert [(each.name, each.priority, each.enabled) for each in config.sub_queues] == [("default", 2, True)]
    assert config.deployment is not None
    assert (config.deployment.branch, config.deployment.mode) == ("main", "long_running")


def test_mode_and_requirements_beside_the_deployment() -> None:
    found = of(with_fields(f"priority: 1, mode: one_shot, requirements_file: r.txt, {DEPLOYMENT}")).queues["x"]
    assert found.deployment is not None
    assert (found.deployment.mode, found.deployment.requirements_file) == ("one_shot", "r.txt")


def test_what_is_left_empty_is_missing() -> None:
    text = """
        queues:
          x:
            priority: 1
            sub_queues:
            input:
            deployment: {git_url: u, startup_cmd: c, branch: , vaults: , limits: , code_path: }
    """
    parsed = of(text)
    assert parsed.errors == []
    assert parsed.queues["x"].deployment == Deployment("u", "c")


@pytest.mark.parametrize("text", ["", "# nothing", "queues:", "queues: {}", "---\n"])
def test_a_file_without_queues(text: str) -> None:
    assert of(text) == Parsed({}, [], set(), True)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (f"priority: 1, prority: 2, {DEPLOYMENT}", "`prority`"),
        ("priority: 1, deployment: {git_url: u, startup_cmd: c, branhc: b}", "`branhc` - at `$.deployment`"),
        ("priority: 1, deployment: {git_url: u, startup_cmd: c, limits: {retries: 1}}", "`retries`"),
        ("priority: 1", "deployment is required"),
        ("priority: 1, deployment: {startup_cmd: c}", "`git_url`"),
        ("priority: 1, deployment: {git_url: u}", "`startup_cmd`"),
        ("priority: 1, deployment: {git_url: '', startup_cmd: c}", "$.deployment.git_url"),
        (f"{DEPLOYMENT}", "priority is required"),
        (f"priority: 0, {DEPLOYMENT}", "priority is required"),
        (f"priority: -1, {DEPLOYMENT}", "$.priority"),
        (f"priority: 1.5, {DEPLOYMENT}", "$.priority"),
        (f"priority: high, {DEPLOYMENT}", "$.priority"),
        (f"sub_queues: [{{name: a}}], {DEPLOYMENT}", "`priority`"),
        (f"sub_queues: [{{name: a, priority: 0}}], {DEPLOYMENT}", "$.sub_queues[0].priority"),
        (f"sub_queues: [{{name: a.b, priority: 1}}], {DEPLOYMENT}", "$.sub_queues[0].name"),
        (f"sub_queues: [{{name: \"a\\n\", priority: 1}}], {DEPLOYMENT}", "$.sub_queues[0].name"),
        (f"sub_queues: [{{name: a, priority: 1}}, {{name: a, priority: 2}}], {DEPLOYMENT}", "'a' is there twice"),
        (f"priority: 1, mode: sometimes, {DEPLOYMENT}", "$.mode"),
        ("priority: 1, mode: one_shot", "mode without a deployment"),
        ("priority: 1, deployment: {git_url: u, startup_cmd: c, mode: x}", "$.deployment.mode"),
        ("priority: 1, deployment: {git_url: u, startup_cmd: c, startup_timeout_secs: 0}", "startup_timeout_secs"),
        ("priority: 1, deployment: {git_url: u, startup_cmd: c, limits: {ttl_archived: 1d}}", "ttl_archived: time:"),
        ("priority: 1, deployment: {git_url: u, startup_cmd: c, limits: {active_timeout: -1s}}", "active_timeout"),
        ("priority: 1, deployment: {git_url: u, startup_cmd: c, limits: {max_retry: -1}}", "max_retry"),
        ("priority: 1, deployment: {git_url: u, startup_cmd: c, git_token: 'vault://x'}", "vault://VAULT/KEY"),
        ("priority: 1, deployment: {git_url: u, startup_cmd: c, branch: 1.5}", "$.deployment.branch"),
        (f"priority: 1, input: [{{name: a, type: [text]}}], {DEPLOYMENT}", "$.input[0].type[0]"),
        (f"priority: 1, input: [{{type: [string]}}], {DEPLOYMENT}", "$.input[0]"),
        (f"priority: 1, input: {{}}, {DEPLOYMENT}", "$.input"),
    ],
)  # fmt: skip
def test_a_queue_that_is_wrong(fields: str, says: str) -> None:
    parsed = of(with_fields(fields), "some.yaml")
    (error,) = parsed.errors
    assert error.startswith("some.yaml: queue 'x': ")
    assert says in error
    assert "\n" not in error
    assert (parsed.queues, parsed.wrong, parsed.complete) == ({}, {"x"}, True)


@pytest.mark.parametrize("name", ["a.b", "'a b'", "-a", "a/b", "''", "'*'", "a" * 64, "é"])
def test_a_name_that_no_queue_can_have(name: str) -> None:
    parsed = of(with_fields(f"priority: 1, {DEPLOYMENT}", name))
    assert parsed.queues == {}
    assert "a queue's name is" in parsed.errors[0]


@pytest.mark.parametrize("body", ["x: 5", "x: [1]", "x: text", "x:"])
def test_a_queue_that_is_none(body: str) -> None:
    parsed = of(f"queues: {{{body}}}")
    assert parsed.queues == {}
    assert parsed.errors[0].startswith("a.yaml: queue 'x': ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("queues: [", "a.yaml: "), ("- a", "no `queues`"), ("5", "no `queues`"), ("queues: [a]", "by their names"),
        ("queues: {x: 1, x: 2}", "'x' is there twice"), ("queues: {}\nqueues: {}", "'queues' is there twice"),
        ("a: &a [*a]", "contains itself"), ("queues: {[1, 2]: 3}", "a.yaml: "), ("\x00", "a.yaml: "),
        ("queues: !!python/object/apply:os.system [id]", "a.yaml: "), ("a: " + "[" * 1500, "a.yaml: "),
        ("--- {}\n--- {}", "a.yaml: "), ('a: !!int ""', "its tag"), ('a: !!float ""', "its tag"),
        ("a: !!bool maybe", "its tag"), ("a: !!timestamp soon", "its tag"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong(text: str, says: str) -> None:
    parsed = of(text)
    (error,) = parsed.errors
    assert says in error
    assert "\n" not in error
    assert (parsed.queues, parsed.complete) == ({}, False)


def test_what_is_wrong_does_not_stop_the_rest() -> None:
    files = {
        "a.yaml": b"queues: [",
        "b.yml": with_fields(f"priority: 1, {DEPLOYMENT}", "good").encode(),
        "c.yaml": f"queues: {{bad: {{priority: x}}, good: {{}}, fine: {{priority: 1, {DEPLOYMENT}}}}}".encode(),
        "d.yaml": b"\xff\xfe\x00",
        "e.yaml": f"server: {{port: 1}}\n{SMALL}".encode(),
    }
    parsed = parse(Files(files))
    assert set(parsed.queues) == {"good", "fine", "small"}
    assert [error.split(":")[0] for error in parsed.errors] == ["a.yaml", "c.yaml", "c.yaml", "d.yaml", "e.yaml"]
    assert "queue 'good': it is in b.yml already" in parsed.errors[2]
    assert "'server' counts for nothing" in parsed.errors[4]
    assert (parsed.wrong, parsed.complete) == ({"bad"}, False)


def test_merged_keys_are_not_there_twice() -> None:
    text = f"""
        queues:
          one: &one {{priority: 1, {DEPLOYMENT}}}
          two: &two {{<<: *one, priority: 2}}
          three: {{<<: *two, priority: 3}}
    """
    parsed = of(text)
    assert parsed.errors == []
    assert [parsed.queues[name].priority for name in ("one", "two", "three")] == [1, 2, 3]


def test_which_files_are_read(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", ".hidden.yaml", "c.yaml~", "d.json", "e.YAML.bak"):
        (tmp_path / name).write_text("queues:")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f.yaml").write_text("queues:")
    (tmp_path / "linked.yaml").symlink_to(tmp_path / "d.json")
    assert list(read(tmp_path).contents) == ["a.yml", "b.yaml", "linked.yaml"]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b.yaml").mkdir()
    (tmp_path / "c.yaml").write_text(SMALL)
    parsed = parse(read(tmp_path))
    assert [error.split(":")[0] for error in parsed.errors] == ["a.yaml", "b.yaml"]
    assert (set(parsed.queues), parsed.complete) == ({"small"}, False)
    assert not parse(read(tmp_path / "nowhere")).complete


def test_a_file_keeps_the_sub_queues_that_it_does_not_name() -> None:
    before = of(WHOLE).queues["inference"].over(QueueConfig())
    names = [each.name for each in before.sub_queues]
    assert names == ["premium", "standard", "default"]
    after = of(with_fields(f"priority: 4, {DEPLOYMENT}")).queues["x"].over(before, from_files=True)
    assert [(each.name, each.priority) for each in after.sub_queues] == [
        ("default", 4), ("premium", 10), ("standard", 3)
    ]  # fmt: skip
    assert (after.input, after.autoscale) == ([], None)


# gateways


class Site:
    """A directory of queue files, and the gateways that load them: of a tenant of its own."""

    def __init__(self, folder: Path, store: Server) -> None:
        self._folder = folder
        self._store = store
        self.files = folder / "queues"
        self.files.mkdir()
        self.tenant = f"t{uuid.uuid4().hex[:12]}"
        self.gateways: list[Gateway] = []
        self.clients: list[httpx.AsyncClient] = []

    def start(self, **settings: str) -> httpx.AsyncClient:
        """Starts a gateway; returns a client of it."""
        given = {
            "queue_files": str(self.files), "queue_files_tenant": self.tenant, "admin_keys": f"{self.tenant}:rl-files",
            "rate_limits": "off", "audit_log": "off",
        } | settings  # fmt: skip
        folder = self._folder / f"gateway-{len(self.gateways)}"
        self.gateways.append(Gateway(folder, self._store.url, **given))
        self.clients.append(httpx.AsyncClient(base_url=self.gateways[-1].url, headers=bearer("rl-files"), timeout=30))
        return self.clients[-1]

    def write(self, name: str, text: str) -> None:
        """Replaces a file in one step."""
        draft = self._folder / "draft"
        draft.write_text(text)
        draft.rename(self.files / name)

    def queue(self, name: str, priority: int = 1, more: str = "") -> None:
        """Writes a file with one queue."""
        self.write(f"{name}.yaml", with_fields(f"priority: {priority}, {more}{DEPLOYMENT}", name))


@pytest.fixture
async def site(tmp_path: Path, backing: Server) -> AsyncIterator[Site]:
    site = Site(tmp_path, backing)
    yield site
    for found in await endpoints(site.clients[0]):
        await site.clients[0].delete(f"/v1/endpoints/{found['id']}")
    for client in site.clients:
        await client.aclose()
    for gateway in site.gateways:
        gateway.stop()


async def endpoints(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    return list((await http.get("/v1/endpoints")).json())


async def listed(http: httpx.AsyncClient) -> dict[str, int]:
    """The queues that take jobs, and their priorities."""
    return {each["name"]: each["priority"] for each in (await http.get("/api/cli/configs")).json()["queues"]}


async def reload(http: httpx.AsyncClient) -> dict[str, Any]:
    response = await http.post("/api/cli/configs/reload")
    assert response.status_code == 200, response.text
    return dict(response.json())


def lists(http: httpx.AsyncClient, expected: dict[str, int]) -> Callable[[], Any]:
    async def look() -> bool:
        return await listed(http) == expected

    return look


async def test_what_is_there_at_the_start(site: Site) -> None:
    site.write("whole.yaml", WHOLE)
    site.queue("other", 5)
    site.write("broken.yaml", "queues: [")
    site.write("wrong.yaml", with_fields(f"priority: 1, prority: 2, {DEPLOYMENT}", "wrong"))
    http = site.start()
    assert await listed(http) == {"inference.premium": 10, "inference.standard": 3, "other.default": 5}
    assert "queue files: broken.yaml: " in site.gateways[0].log
    assert "queue files: wrong.yaml: queue 'wrong': " in site.gateways[0].log
    assert (await http.post("/v2/other/run", json={"input": 1})).status_code == 200


async def test_a_change_is_seen(site: Site) -> None:
    site.queue("one", 1)
    http = site.start()
    site.queue("one", 7)
    await eventually(lists(http, {"one.default": 7}))
    site.queue("two", 2)
    await eventually(lists(http, {"one.default": 7, "two.default": 2}))


async def test_a_queue_that_leaves_the_files_is_disabled_and_comes_back(site: Site) -> None:
    site.queue("one", 1)
    site.queue("two", 2)
    http = site.start()
    job = (await http.post("/v2/one/run", json={"input": 1})).json()["id"]
    (site.files / "one.yaml").unlink()
    await eventually(lists(http, {"two.default": 2}))
    assert "queue one.default is in the queue files no more" in site.gateways[0].log
    assert {each["id"] for each in await endpoints(http)} == {"one", "two"}
    assert (await http.get(f"/v2/one/status/{job}")).json()["status"] == "IN_QUEUE"
    site.queue("one", 3)
    await eventually(lists(http, {"one.default": 3, "two.default": 2}))
    assert (await http.get(f"/v2/one/status/{job}")).json()["status"] == "IN_QUEUE"


async def test_a_sub_queue_that_leaves_its_file(site: Site) -> None:
    site.write("whole.yaml", WHOLE)
    http = site.start(queue_files_watch="false")
    made = await http.post("/api/cli/configs", json={"name": "inference.extra", "priority": 5})
    assert made.status_code == 201, made.text
    site.write("whole.yaml", WHOLE.replace("{name: premium, priority: 10}, ", ""))
    assert (await reload(http))["removed"] == ["inference.premium"]
    assert await listed(http) == {"inference.standard": 3, "inference.extra": 5}


async def test_nothing_is_disabled_at_the_start(site: Site) -> None:
    site.queue("one")
    site.queue("two")
    site.start(queue_files_watch="false")
    (site.files / "two.yaml").unlink()
    site.queue("one", 4)
    http = site.start(queue_files_watch="false")
    assert await listed(http) == {"one.default": 4, "two.default": 1}
    assert (await reload(http))["removed"] == ["two.default"]
    assert await listed(http) == {"one.default": 4}


async def test_what_a_reload_says(site: Site) -> None:
    site.write("whole.yaml", WHOLE)
    site.queue("old")
    http = site.start(queue_files_watch="false")
    (site.files / "old.yaml").unlink()
    site.queue("new", 3)
    site.write("z.yaml", with_fields("priority: 1", "incomplete"))
    said = await reload(http)
    assert abs(said.pop("timestamp") - (await http.get("/workers/config/new")).json()["created_at"]) < 60
    assert said == {
        "reloaded": ["new.default", "inference.premium", "inference.standard"],
        "errors": ["z.yaml: queue 'incomplete': deployment is required"],
        "removed": ["old.default"],
    }
    twin = await http.post("/workers/reload")
    assert (twin.json()["reloaded"], twin.json()["removed"]) == (said["reloaded"], [])


async def test_nothing_goes_while_a_file_cannot_be_read(site: Site) -> None:
    site.queue("one")
    site.queue("two")
    http = site.start(queue_files_watch="false")
    site.write("one.yaml", "queues: {one: [")
    (site.files / "two.yaml").unlink()
    said = await reload(http)
    assert (said["reloaded"], said["removed"]) == ([], [])
    assert [error.split(":")[0] for error in said["errors"]] == [
        "one.yaml", "queue 'one' stays", "queue 'two' stays"
    ]  # fmt: skip
    assert await listed(http) == {"one.default": 1, "two.default": 1}
    for path in site.files.iterdir():
        path.unlink()
    site.files.rmdir()
    assert (await reload(http))["removed"] == []
    site.files.mkdir()
    assert (await reload(http))["removed"] == ["one.default", "two.default"]
    assert await listed(http) == {}


async def test_a_queue_that_is_wrong_stays_as_it_was(site: Site) -> None:
    site.queue("one", 4)
    http = site.start(queue_files_watch="false")
    site.write("one.yaml", with_fields("priority: 9, deployment: {}", "one"))
    said = await reload(http)
    assert (said["reloaded"], said["removed"], len(said["errors"])) == ([], [], 1)
    assert await listed(http) == {"one.default": 4}


async def test_only_what_differs_is_written_and_the_rest_stays(site: Site) -> None:
    site.queue("one", 4)
    http = site.start(queue_files_watch="false")
    changed = await http.patch("/v1/endpoints/one", json={"attempts": 7, "env": {"A": "1"}})
    assert changed.json()["version"] == 2
    assert (await reload(http))["reloaded"] == ["one.default"]
    assert (await endpoints(http))[0]["version"] == 2
    site.queue("one", 5)
    await reload(http)
    (found,) = await endpoints(http)
    assert (found["version"], found["attempts"], found["env"]) == (3, 7, {"A": "1"})
    assert found["queue"]["sub_queues"][0]["priority"] == 5


async def test_what_was_deleted_by_hand_comes_back_with_a_reload(site: Site) -> None:
    site.queue("one", 4)
    http = site.start(queue_files_watch="false")
    await http.delete("/api/cli/configs/one")
    assert await listed(http) == {}
    await reload(http)
    assert await listed(http) == {"one.default": 4}


async def test_what_was_not_made_from_files_stays(site: Site) -> None:
    site.queue("one")
    http = site.start(queue_files_watch="false")
    await http.post("/v1/endpoints", json={"id": "plain"})
    await http.post("/api/cli/configs", json={"name": "own.high", "priority": 3})
    (site.files / "one.yaml").unlink()
    assert (await reload(http))["removed"] == ["one.default"]
    assert await listed(http) == {"own.high": 3, "plain.default": 1}


async def test_two_gateways_over_the_same_files(site: Site) -> None:
    names = [f"q{number:02}" for number in range(12)]
    for name in names:
        site.queue(name)
    clients = [site.start(processes=processes) for processes in ("2", "1")]
    found = await endpoints(clients[1])
    assert [(each["id"], each["version"]) for each in found] == [(name, 1) for name in names]
    text = "\n".join(f"  {name}: {{priority: 8, {DEPLOYMENT}}}" for name in names[1:])
    site.write("all.yaml", f"queues:\n{text}\n")
    for name in names:
        (site.files / f"{name}.yaml").unlink()
    await eventually(lists(clients[0], {f"{name}.default": 8 for name in names[1:]}))
    await reload(clients[1])
    found = await endpoints(clients[0])
    assert [each["id"] for each in found] == names
    assert {each["queue"]["sub_queues"][0]["priority"] for each in found[1:]} == {8}


async def test_a_link_above_the_files_that_is_changed(site: Site, tmp_path: Path) -> None:
    """As git-sync does it, and a ConfigMap of Kubernetes in a like way."""
    site.files.rmdir()
    for revision, priority in (("r1", 1), ("r2", 2)):
        (tmp_path / revision).mkdir()
        (tmp_path / revision / "q.yaml").write_text(with_fields(f"priority: {priority}, {DEPLOYMENT}", "q"))
    site.files.symlink_to(tmp_path / "r1")
    http = site.start()
    assert await listed(http) == {"q.default": 1}
    (tmp_path / "new").symlink_to(tmp_path / "r2")
    (tmp_path / "new").rename(site.files)
    await eventually(lists(http, {"q.default": 2}))


async def test_a_directory_that_comes_later(site: Site) -> None:
    site.files.rmdir()
    http = site.start()
    assert "cannot be read" in site.gateways[0].log
    assert await listed(http) == {}
    site.files.mkdir()
    site.queue("late", 3)
    await eventually(lists(http, {"late.default": 3}))


async def test_a_gateway_without_queue_files(site: Site) -> None:
    http = site.start(queue_files="")
    said = await reload(http)
    assert (said["reloaded"], said["removed"]) == ([], [])
    assert "QUEUE_WORKERS_DIR" in said["errors"][0]


def test_a_tenant_that_cannot_be() -> None:
    refused("--redis", "redis://127.0.0.1:9", api_keys="k", queue_files_tenant="/", says=("queue_files_tenant",))

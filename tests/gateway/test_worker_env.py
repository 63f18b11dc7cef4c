"""`runlane worker-env`, and what becomes of it in a shell, in docker and in Kubernetes."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
import yaml
from click.testing import CliRunner, Result

from gateway.cli import main

from ..stores import Server
from .clients import bearer
from .commands.invoking import NOBODY, check_failed
from .conftest import Make
from .processes import Gateway

PRINTABLE = "".join(map(chr, range(33, 127)))
Command = Callable[..., Result]


@pytest.fixture(scope="module")
def open_gateway(backing: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One that wants no keys."""
    folder = tmp_path_factory.mktemp("open-gateway")
    gateway = Gateway(folder, backing.url, "--insecure", "--endpoint", "hello")
    yield gateway
    gateway.stop()


@pytest.fixture
def command(open_gateway: Gateway) -> Command:
    """Runs `runlane worker-env` for the endpoint "hello" of a gateway without keys."""

    def call(*arguments: str, endpoint: str = "hello", url: str = open_gateway.url, key: str = "") -> Result:
        variables = {"RUNLANE_URL": url, "RUNLANE_WORKER_KEY": key}
        return CliRunner().invoke(main, ["worker-env", endpoint, *arguments], env=variables, catch_exceptions=False)

    return call


def urls(base: str, query: str = "?gpu=") -> dict[str, str]:
    """What the variables with URLs are to have, with RunPod's own placeholders."""
    return {
        "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID{query}",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID{query}",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID{query}",
        "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID" + (query if query != "?gpu=" else ""),
    }


def sourced(script: str, program: str = "bash") -> list[dict[str, str]]:
    """RunPod's variables, at each `show` in the script."""
    kept = {"PATH": os.environ["PATH"], "ID": "wrong", "RUNPOD_POD_ID": "wrong"}
    script = f"set -eu\nshow() {{ env -0; printf '\\1'; }}\n{script}"
    found = subprocess.run([program, "-c", script], env=kept, capture_output=True, text=True, check=True)
    assert found.stderr == ""
    return [
        {name: value for name, _, value in (line.partition("=") for line in shown.split("\0")) if name[:6] == "RUNPOD"}
        for shown in found.stdout.split("\1")[:-1]
    ]


def parsed_by_docker(text: str) -> dict[str, str]:
    """As docker reads it: https://docs.docker.com/reference/cli/docker/container/run/#env"""
    lines = [line.lstrip() for line in text.splitlines()]
    assert all("=" in line for line in lines if not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("program", ["bash", "sh"])
def test_the_shell_form_in_a_shell(command: Command, open_gateway: Gateway, program: str) -> None:
    (found,) = sourced(command().stdout + "show", program)
    id, host = found.pop("RUNPOD_POD_ID"), found.pop("RUNPOD_POD_HOSTNAME")
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", id)
    assert host == os.uname().nodename
    assert id.startswith(host[:40])
    assert found == urls(f"{open_gateway.url}/v2/hello") | {
        "RUNPOD_ENDPOINT_ID": "hello", "RUNPOD_AI_API_KEY": "no-key-needed", "RUNPOD_PING_INTERVAL": "10000",
    }  # fmt: skip


def test_as_the_documentation_has_it(open_gateway: Gateway) -> None:
    program = f"{sys.executable} -m gateway worker-env hello --url {open_gateway.url}"
    paths = f"export PYTHONPATH={Path(__file__).parents[2]}"
    quoted, unquoted = sourced(f'{paths}\neval "$({program})"; show; eval $({program}); show')
    assert quoted.pop("RUNPOD_POD_ID") != unquoted.pop("RUNPOD_POD_ID")
    assert quoted == unquoted
    assert urls(f"{open_gateway.url}/v2/hello").items() <= quoted.items()


def test_each_evaluation_makes_a_worker_of_its_own(command: Command) -> None:
    text = command().stdout
    found = sourced(f"{text}show\n{text}show\n({text}show)\n")
    assert len({shown["RUNPOD_POD_ID"] for shown in found}) == 3


@pytest.mark.parametrize("form", ["shell", "docker", "k8s"])
def test_an_id_and_a_gpu_that_are_given(command: Command, open_gateway: Gateway, form: str) -> None:
    result = command("--id", "w.1_2-3", "--gpu", "NVIDIA H100 & $ID 'x'", "--format", form)
    assert result.exit_code == 0, result.stderr
    if form == "shell":
        (found,) = sourced(result.stdout + "show")
    elif form == "docker":
        found = parsed_by_docker(result.stdout)
    else:
        found = {item["name"]: item["value"] for item in yaml.safe_load(result.stdout)["env"]}
    query = "?gpu=NVIDIA%20H100%20%26%20%24ID%20%27x%27"
    assert found == urls(f"{open_gateway.url}/v2/hello", query) | {
        "RUNPOD_ENDPOINT_ID": "hello", "RUNPOD_AI_API_KEY": "no-key-needed", "RUNPOD_PING_INTERVAL": "10000",
        "RUNPOD_POD_ID": "w.1_2-3", "RUNPOD_POD_HOSTNAME": "w.1_2-3",
    }  # fmt: skip


def test_a_docker_file_has_an_id_of_its_own(command: Command) -> None:
    first, second = (parsed_by_docker(command("--format", "docker").stdout) for _ in range(2))
    assert first["RUNPOD_POD_ID"] == first["RUNPOD_POD_HOSTNAME"]
    assert re.fullmatch("[0-9a-f]{16}", first["RUNPOD_POD_ID"])
    assert first["RUNPOD_POD_ID"] != second["RUNPOD_POD_ID"]


def test_in_kubernetes_a_worker_has_its_pod_s_name(command: Command, open_gateway: Gateway) -> None:
    env = yaml.safe_load(command("--format", "k8s").stdout)["env"]
    named = {"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    assert [item for item in env if "value" not in item] == [
        {"name": "RUNPOD_POD_ID"} | named,
        {"name": "RUNPOD_POD_HOSTNAME"} | named,
    ]
    values = {item["name"]: item["value"] for item in env if "value" in item}
    assert urls(f"{open_gateway.url}/v2/hello").items() <= values.items()
    assert all(isinstance(value, str) for value in values.values())


def test_a_key_arrives_whatever_is_in_it(command: Command) -> None:
    """The gateway takes any, so nothing but the quoting decides."""
    (found,) = sourced(command("--worker-key", PRINTABLE).stdout + "show")
    assert found["RUNPOD_AI_API_KEY"] == PRINTABLE
    assert parsed_by_docker(command("--format", "docker", key=PRINTABLE).stdout)["RUNPOD_AI_API_KEY"] == PRINTABLE


@pytest.mark.parametrize(
    ("key", "written"),
    [(PRINTABLE, PRINTABLE), ("a$(b)", "a$$(b)"), ("a$$b", "a$$$b"), ("$$(b)", "$$$$(b)"), ("$", "$"), ("$$", "$$$")],
)
def test_kubernetes_would_replace_what_looks_like_a_variable(command: Command, key: str, written: str) -> None:
    env = yaml.safe_load(command("--format", "k8s", key=key).stdout)["env"]
    assert {"name": "RUNPOD_AI_API_KEY", "value": written} in env


@pytest.mark.parametrize("form", ["shell", "docker", "k8s"])
def test_every_form_says_what_else_may_be_needed(command: Command, form: str) -> None:
    comments = [line for line in command("--format", form).stdout.splitlines() if line.startswith("# ")]
    for name in ("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS=true", "RUNPOD_SKIP_GPU_CHECK=true"):
        assert any(name in line for line in comments)


@pytest.mark.parametrize(("lease", "interval"), [(1, "1000"), (3, "1000"), (12, "4000"), (30, "10000"), (600, "10000")])
async def test_the_interval_of_signs_of_life(
    command: Command, gateway: Gateway, make_target: Make, lease: int, interval: str
) -> None:
    target = await make_target(leaseSeconds=lease)
    result = command(endpoint=target.id, url=gateway.url, key=target.worker_key)
    (found,) = sourced(result.stdout + "show")
    assert (found["RUNPOD_PING_INTERVAL"], found["RUNPOD_AI_API_KEY"]) == (interval, target.worker_key)


async def test_the_urls_are_those_of_the_gateway(command: Command, gateway: Gateway, make_target: Make) -> None:
    target = await make_target()
    result = command("--id", "w1", endpoint=target.id, url=gateway.url + "/", key=target.worker_key)
    (found,) = sourced(result.stdout + "show")
    url = found["RUNPOD_WEBHOOK_PING"].replace("$RUNPOD_POD_ID", found["RUNPOD_POD_ID"])
    key = {"Authorization": found["RUNPOD_AI_API_KEY"]}
    assert (await target.http.get(url, headers=key)).status_code == 200
    listed = (await target.get("/workers")).json()["workers"]
    assert [worker["id"] for worker in listed] == ["w1"]


@pytest.mark.parametrize("key", ["", "wrong", "\N{LATIN SMALL LETTER E WITH ACUTE}", "a\nb"])
async def test_a_wrong_key(command: Command, gateway: Gateway, make_target: Make, key: str) -> None:
    target = await make_target()
    check_failed(command(endpoint=target.id, url=gateway.url, key=key), "--worker-key", "RUNLANE_WORKER_KEY")


@pytest.mark.parametrize("endpoint", ["missing", "a/b", "..", "a b", "é", "#", "?"])
def test_an_endpoint_that_is_not_there(command: Command, endpoint: str) -> None:
    check_failed(command(endpoint=endpoint), "endpoint", "runlane endpoint list")


@pytest.mark.parametrize("url", [NOBODY, "nonsense", "http://[", ""])
def test_a_gateway_that_cannot_be_reached(command: Command, url: str) -> None:
    check_failed(command("--url", url), "--url", "RUNLANE_URL")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"endpoint": "hello", "pingIntervalMs": "x"}', b""])
def test_another_server_answers(command: Command, body: bytes) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        result = command(url=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()
    check_failed(result, "does not answer as a gateway", "--url")


@pytest.mark.parametrize("id", ["", "-a", "a b", "a/b", "$ID", "é", "a" * 64])
def test_an_id_that_no_worker_can_have(command: Command, id: str) -> None:
    check_failed(command(f"--id={id}"), "--id")


def test_an_unknown_format(command: Command) -> None:
    result = command("--format", "fish")
    assert (result.exit_code, result.stdout) == (2, "")


def test_the_gateway_answers_workers_only(gateway: Gateway, open_gateway: Gateway) -> None:
    assert httpx.get(f"{open_gateway.url}/v2/hello/worker-env").json() == {"endpoint": "hello", "pingIntervalMs": 10000}
    assert httpx.get(f"{gateway.url}/v2/hello/worker-env", headers=bearer("other")).status_code == 401

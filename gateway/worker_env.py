"""The environment in which a worker that uses RunPod's own SDK serves an endpoint, as `runlane worker-env` prints it.

The variables are those that `runpod` on PyPI reads (1.7.13 and 1.12.0: serverless/modules/rp_job.py, rp_http.py and
rp_ping.py). It puts the ids of worker and job in the place of `$RUNPOD_POD_ID` and `$ID`, so these have to reach it as
they are.
"""

import json
import re
import secrets
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote

from .dialects.worker_calls import WORKER_ID
from .errors import StartupError

NO_KEY = "no-key-needed"
"""The SDK sends no signs of life without a key."""

CHECKS = """\
RunPod's SDK tests the machine at its start, and ends when a test fails. RUNPOD_SKIP_AUTO_SYSTEM_CHECKS=true leaves the
tests of network, memory and disk out (needed where 8.8.8.8:53 cannot be reached), RUNPOD_SKIP_GPU_CHECK=true that of
the GPU's memory."""

_OF_HOST = "\"$(uname -n | cut -c1-40)-$(od -An -N4 -tx1 /dev/urandom | tr -d ' \\n')\""


class Environment(NamedTuple):
    """What a worker has to know. `key` and `id` are None where none is given; `gpu` is a name to show, or ""."""

    url: str
    endpoint: str
    ping_interval_ms: int
    key: str | None = None
    id: str | None = None
    gpu: str = ""

    def variables(self) -> dict[str, str]:
        """All but the worker's identity."""
        base, gpu = f"{self.url.rstrip('/')}/v2/{self.endpoint}", f"?gpu={quote(self.gpu, safe='')}"
        return {
            "RUNPOD_ENDPOINT_ID": self.endpoint,
            "RUNPOD_AI_API_KEY": self.key or NO_KEY,
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID{gpu}",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID{gpu}",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID{gpu}",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID{gpu if self.gpu else ''}",
            "RUNPOD_PING_INTERVAL": str(self.ping_interval_ms),
        }


def shell(environment: Environment) -> str:
    """For `eval` in any POSIX shell; without an id, each evaluation makes one. The comment stands last, since an `eval`
    whose argument is not quoted makes one line of it all."""
    lines = [f"export {name}={_quoted(value)}" for name, value in environment.variables().items()]
    if environment.id is None:
        lines += [f"export RUNPOD_POD_ID={_OF_HOST}", 'export RUNPOD_POD_HOSTNAME="$(uname -n)"']
    else:
        lines += [f"export {name}={_quoted(environment.id)}" for name in ("RUNPOD_POD_ID", "RUNPOD_POD_HOSTNAME")]
    return _text(lines, _commented(CHECKS))


def docker(environment: Environment) -> str:
    """A file for `docker run --env-file`, which takes each line as it is."""
    id = environment.id or secrets.token_hex(8)
    variables = environment.variables() | {"RUNPOD_POD_ID": id, "RUNPOD_POD_HOSTNAME": id}
    about = (
        "For docker run --env-file. Each container needs an id of its own: -e RUNPOD_POD_ID=ID wins over this file.\n"
        "Compose replaces $ID in its env_file, unless that has `format: raw`."
    )
    return _text(_commented(f"{about}\n{CHECKS}"), [f"{name}={value}" for name, value in variables.items()])


def k8s(environment: Environment) -> str:
    """The `env` of a container in a Kubernetes manifest, as YAML; without an id the worker has its pod's name."""
    about = "RUNPOD_AI_API_KEY belongs into a Secret: put a valueFrom.secretKeyRef in the place of its value."
    lines = ["env:"]
    for name, value in environment.variables().items():
        lines += [f"  - name: {name}", f"    value: {_for_kubernetes(value)}"]
    for name in ("RUNPOD_POD_ID", "RUNPOD_POD_HOSTNAME"):
        lines.append(f"  - name: {name}")
        if environment.id is None:
            lines += ["    valueFrom:", "      fieldRef:", "        fieldPath: metadata.name"]
        else:
            lines.append(f"    value: {_for_kubernetes(environment.id)}")
    return _text(_commented(f"{about}\n{CHECKS}"), lines)


FORMATS: dict[str, Callable[[Environment], str]] = {"shell": shell, "docker": docker, "k8s": k8s}


def check(id: str | None, key: str | None) -> None:
    """Refuses what no worker can have.

    Raises:
        StartupError: the worker's id, or the key.
    """
    if id is not None and not WORKER_ID.fullmatch(id):
        raise StartupError(f"--id is 1 to 63 letters, digits, '.', '-' or '_', not with a sign first; not {id[:80]!r}")
    if key and not (key.isascii() and key.isprintable()):
        raise StartupError("a worker's key has no such characters; check --worker-key or RUNLANE_WORKER_KEY")


def environment_of(answer: Any, url: str, **given: Any) -> Environment:
    """What `/v2/{endpoint}/worker-env` of the gateway at `url` answered, and what was given besides.

    Raises:
        StartupError: it is no answer of a gateway.
    """
    try:
        return Environment(url, str(answer["endpoint"]), int(answer["pingIntervalMs"]), **given)
    except (KeyError, TypeError, ValueError):
        raise StartupError(f"{url} does not answer as a gateway does; check --url or RUNLANE_URL") from None


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


def _for_kubernetes(value: str) -> str:
    """Kubernetes replaces `$(NAME)`, and makes one `$` of two:
    https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/"""
    return json.dumps(re.sub(r"\$(?=[$(])", "$$", value))


def _commented(text: str) -> list[str]:
    return [f"# {line}" for line in text.splitlines()]


def _text(*parts: list[str]) -> str:
    return "".join(f"{line}\n" for part in parts for line in part)

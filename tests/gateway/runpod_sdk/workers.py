"""Workers that use RunPod's SDK, as processes that are started with what `runlane worker-env` prints."""

import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from gateway.children import die_with_parent

from ..processes import Gateway, environment, run
from ..waiting import eventually

ROOT = Path(__file__).parents[3]
CONTAINER, HANDLERS = (Path(__file__).with_name(name) for name in ("container.py", "handlers.py"))


class Sdk(NamedTuple):
    """A version of the SDK, and the folder that it is in, if it is not the installed one."""

    name: str
    version: str
    folder: Path | None

    @property
    def hears_stops(self) -> bool:
        """Whether it asks which of its jobs are to be stopped."""
        return self.folder is None

    def check(self) -> None:
        """Says what to do where it is not installed."""
        assert self.folder is None or (self.folder / "runpod").is_dir(), (
            f"{self.folder} is not there: `make test` installs it, as does pip install --no-deps "
            f"--target {self.folder} runpod=={self.version}"
        )


OLD = Sdk("1.7.13", "1.7.13", Path(sys.prefix) / "runpod-1.7.13")
LATEST = Sdk("latest", version("runpod"), None)


class Endpoint(NamedTuple):
    """An endpoint of the gateway, and its key for workers."""

    gateway: Gateway
    id: str
    key: str

    def printed(self, worker: str) -> str:
        """What `worker-env` prints for the worker."""
        command = run(
            "worker-env", self.id, "--id", worker, "--gpu", "NVIDIA X", url=self.gateway.url, worker_key=self.key
        )
        assert command.returncode == 0, command.stderr
        return command.stdout


class SdkWorker:
    """A worker in a container of its own: with `restart`, a new process follows each that has ended, under the same
    id."""

    def __init__(
        self, folder: Path, sdk: Sdk, endpoint: Endpoint, id: str, restart: bool = False, **variables: str
    ) -> None:
        sdk.check()
        self.id = id
        self.sdk = sdk
        self._log, self._record = folder / "log", folder / "record"
        self._record.touch()
        script = f'{endpoint.printed(id)}\nexec "$0" "$@"'
        container = [sys.executable, str(CONTAINER), "always" if restart else "once"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", script, *container, sys.executable, "-u", str(HANDLERS)],
                env=environment()
                | {"HANDLER": "plain", "RECORD": str(self._record), "HOME": str(folder)}
                | {"RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true", "RUNPOD_SKIP_GPU_CHECK": "true"}
                | {"PYTHONPATH": os.pathsep.join(map(str, filter(None, (sdk.folder, ROOT))))}
                | variables,
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent(signal.SIGTERM),
            )

    @property
    def log(self) -> str:
        """All that its processes have written."""
        return self._log.read_text(errors="replace")

    @property
    def starts(self) -> list[str]:
        """The version of the SDK, for each time that it has begun to work."""
        return re.findall(r"Starting Serverless Worker \|  Version (\S+)", self.log)

    def recorded(self, job: str | None = None) -> list[tuple[int, str]]:
        """What the handlers wrote, of one job or of all: attempt and event."""
        lines: list[dict[str, Any]] = [json.loads(line) for line in self._record.read_text().splitlines()]
        return [(line["attempt"], line["event"]) for line in lines if job in (None, line["job"])]

    async def has_recorded(self, event: tuple[int, str], job: str) -> None:
        """Waits until the handler has written this of the job."""

        async def look() -> bool:
            return event in self.recorded(job)

        await eventually(look, 20)

    def wait(self) -> None:
        """Waits until it has ended by itself."""
        self._process.wait(20)

    def kill(self) -> None:
        """Kills all its processes, for good."""
        self._process.terminate()
        self._process.wait()

"""`runlane dev`: the whole system in one process tree, for the author of a handler.

This process runs the gateway in a thread and starts the embedded store and the workers as its children, which the
kernel ends with it. The workers are the real ones, over the real store.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import httpx
import watchfiles

from .app import App
from .children import die_with_parent
from .embedded import EmbeddedStore
from .engine.endpoints import ID
from .errors import StartupError
from .server import Server, configuration, listen
from .settings import Settings

SECONDS_TO_DRAIN = 35
PRIVATE_NETWORKS = ("127.0.0.0/8", "::1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
"""Where webhooks may go: whoever can call us could send requests there as well."""

SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_BEFORE_RESTART = 1.0


class Development:
    """One run of `runlane dev`."""

    def __init__(self, handler: Path, endpoint: str, port: int, workers: int, data: Path) -> None:
        if not handler.is_file():
            raise StartupError(f"there is no file {handler}")
        if not ID.fullmatch(endpoint):
            raise StartupError(f"{endpoint!r} cannot be an endpoint's id: 1 to 63 letters, digits, '-' or '_'")
        self._handler = handler
        self._endpoint = endpoint
        self._port = port
        self._count = workers
        self._data = data
        self._workers: list[subprocess.Popen[bytes]] = []
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._url = ""

    def run(self, reload: bool) -> None:
        """Runs until a SIGINT or SIGTERM; then drains and leaves nothing running.

        Raises:
            StartupError: the store or the gateway did not start, or the handler cannot be imported.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(listen(Settings(port=self._port)))
            self._url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            say(f"store    starting in {self._data}")
            store = EmbeddedStore(self._data)
            stack.callback(store.stop)
            settings = Settings(
                redis_url=store.url, insecure=True, endpoints=(self._endpoint,), audit_log="off",
                outbound_allow=PRIVATE_NETWORKS,
            )  # fmt: skip
            app = App(settings)
            server = Server(configuration(app, settings, SECONDS_TO_DRAIN))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="gateway")
            thread.start()
            stack.callback(self._stop_gateway, app, server, thread)
            self._wait_for_gateway(server, thread)
            say(f"gateway  {self._url}")
            stack.callback(self._stop_workers)
            self._start_workers()
            say(f"worker   loading {self._handler}")
            self._wait_for_workers(reload)
            if not self._stop.is_set():
                say(f"ready {self._url}/v2/{self._endpoint}")
            if reload:
                threading.Thread(target=self._watch_files, daemon=True).start()
            self._keep_running(reload)
            say("stopping")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._stop.set()

    def _wait_for_gateway(self, server: Server, thread: threading.Thread) -> None:
        while not server.started:
            if not thread.is_alive():
                raise StartupError("the gateway did not start; see above")
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _wait_for_workers(self, reload: bool) -> None:
        while not self._stop.wait(SECONDS_BETWEEN_LOOKS):
            if any(worker.poll() is not None for worker in self._workers):
                if not reload:
                    raise StartupError(f"the worker ended before it was ready; is {self._handler} a handler? See above")
                return
            workers = httpx.get(f"{self._url}/v2/{self._endpoint}/health").json()["workers"]
            if workers["ready"]:
                return

    def _keep_running(self, reload: bool) -> None:
        while not self._stop.wait(SECONDS_BETWEEN_LOOKS):
            if self._changed.is_set():
                self._changed.clear()
                say(f"worker   {self._handler.parent} has changed; loading {self._handler} again")
                self._stop_workers()
                self._start_workers()
            ended = [worker for worker in self._workers if worker.poll() is not None]
            if ended and not reload:
                say(f"worker   ended with status {ended[0].returncode}; starting another")
                self._stop.wait(SECONDS_BEFORE_RESTART)
                self._workers = [worker for worker in self._workers if worker not in ended]
                self._start_workers()

    def _start_workers(self) -> None:
        environment = {
            **os.environ, "RUNLANE_URL": self._url, "RUNLANE_ENDPOINT": self._endpoint, "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        while len(self._workers) < self._count and not self._stop.is_set():
            worker = subprocess.Popen(
                [sys.executable, "-m", "handler_sdk", str(self._handler)],
                env=environment,
                start_new_session=True,  # a Ctrl-C is for us: we tell the workers to drain
                preexec_fn=die_with_parent(signal.SIGKILL),
            )
            self._workers.append(worker)

    def _stop_workers(self) -> None:
        for worker in self._workers:
            worker.terminate()
        deadline = time.monotonic() + SECONDS_TO_DRAIN
        for worker in self._workers:
            try:
                worker.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self._workers = []

    def _stop_gateway(self, app: App, server: Server, thread: threading.Thread) -> None:
        app.drain()
        server.should_exit = True
        thread.join()

    def _watch_files(self) -> None:
        for _ in watchfiles.watch(self._handler.resolve().parent, stop_event=self._stop, raise_interrupt=False):
            self._changed.set()


def say(text: str) -> None:
    """One line on standard output, at once."""
    print(text, flush=True)

"""A load test with Locust (https://locust.io), for those who have it: users that run jobs, wait for some, read streams.

    pip install locust
    export RUNLANE_URL=http://127.0.0.1:8000 RUNLANE_ENDPOINT=hello RUNLANE_API_KEY=rl_…
    locust -f loadtest/locustfile.py --users 50 --spawn-rate 10

RUNLANE_LOAD_INPUT is the job's input, as JSON. The key is sent to RUNLANE_URL, or to what `--host` says; to RunPod goes
RUNPOD_API_KEY alone.
"""

import json
import os
from typing import Any
from urllib.parse import urlsplit

from locust import FastHttpUser, between, task

FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


class Client(FastHttpUser):
    """A client of one endpoint."""

    host = os.environ.get("RUNLANE_URL", "http://127.0.0.1:8000")
    wait_time = between(0.5, 1.5)

    def on_start(self) -> None:
        """Reads where to go, with what."""
        self.path = f"/v2/{os.environ.get('RUNLANE_ENDPOINT', 'hello')}"
        key = os.environ.get("RUNPOD_API_KEY")
        if not f".{urlsplit(self.host or '').hostname}".endswith(".runpod.ai"):
            key = os.environ.get("RUNLANE_API_KEY") or key
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.body = {"input": json.loads(os.environ.get("RUNLANE_LOAD_INPUT", '{"prompt": "Hello"}'))}

    @task(3)
    def submit(self) -> None:
        """Submits a job."""
        self.call("POST", "/run")

    @task(2)
    def complete(self) -> None:
        """Has a job done."""
        self.call("POST", "/runsync")

    @task(1)
    def read(self) -> None:
        """Submits a job and reads its chunks until it is final."""
        job = self.call("POST", "/run")
        while job.get("id") and job.get("status") not in FINAL:
            job = {"id": job["id"]} | self.call("GET", f"/stream/{job['id']}", "/stream/{id}")
            if not job.get("status"):
                break

    def call(self, method: str, path: str, name: str | None = None) -> dict[str, Any]:
        """A job object; {} when the request failed. `name`: what it is listed as."""
        body = self.body if method == "POST" else None
        with self.rest(method, self.path + path, json=body, headers=self.headers, name=name or path) as response:
            job = response.js
            if not isinstance(job, dict) or "status" not in job:
                response.failure("no job object")  # type: ignore[no-untyped-call]
                return {}
            if job["status"] in FINAL[1:]:
                response.failure(f"the job is {job['status']}")  # type: ignore[no-untyped-call]
            return job

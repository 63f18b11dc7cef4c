"""The file for Locust, run by Locust."""

import json
import subprocess
import sys
from pathlib import Path

from ..gateway.processes import environment
from .running import KEY

FILE = Path(__file__).parents[2] / "loadtest" / "locustfile.py"


def test_locust_runs_jobs_and_reads_streams(url: str, tmp_path: Path) -> None:
    base, _, endpoint = url.rpartition("/v2/")
    command = [sys.executable, "-m", "locust", "-f", str(FILE), "--headless", "--json", "--skip-log",
               "--users", "60", "--spawn-rate", "100", "--run-time", "2s", "--exit-code-on-error", "1"]  # fmt: skip
    variables = environment(url=base, endpoint=endpoint, api_key=KEY)
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert found.keys() == {"/run", "/runsync", "/stream/{id}"}
    assert all(entry["num_requests"] > 0 and entry["num_failures"] == 0 for entry in found.values())
    assert KEY not in done.stdout + done.stderr

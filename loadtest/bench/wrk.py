"""wrk, which sends the same request over so many connections, each as soon as the last one was answered."""

import re
import shutil
import subprocess
import tempfile
from typing import NamedTuple

from .environment import KEY, NotMeasuredError

SECONDS = 1


class Requests(NamedTuple):
    """What is sent: a GET without a body, else a POST. `paths`: in place of the URL's, in turn."""

    url: str
    body: str = ""
    connections: int = 64
    seconds: int = SECONDS
    paths: tuple[str, ...] = ()


class Measured(NamedTuple):
    """Requests per second, and the median time of one in seconds."""

    per_second: float
    median: float


def wrk(requests: Requests) -> Measured:
    """Sends requests for a while. (wrk could look into each answer, but its interpreter would take a part of the time
    that is measured.)

    Raises:
        NotMeasuredError: wrk is not there, or an answer was no 2xx.
    """
    if shutil.which("wrk") is None:
        raise NotMeasuredError("this needs wrk: apt-get install wrk")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_script(requests))
        script.flush()
        command = ["wrk", "-t1", f"-c{requests.connections}", f"-d{requests.seconds}", "--timeout", "30",
                   "-s", script.name, requests.url]  # fmt: skip
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise NotMeasuredError(f"{requests.url} answered with errors:\n{output}")
    return Measured(
        _figure(r"Requests/sec:\s+([\d.]+)", output),
        _figure(r"median of ([\d.]+) us", output) / 1e6,
    )


def _script(requests: Requests) -> str:
    return f"""
wrk.method = "{"POST" if requests.body else "GET"}"
wrk.body = {f"[==[{requests.body}]==]" if requests.body else "nil"}
wrk.headers["Authorization"] = "Bearer {KEY}"
{_in_turn(requests.paths) if requests.paths else ""}
done = function(summary, latency) print("median of " .. latency:percentile(50) .. " us") end
"""


def _in_turn(paths: tuple[str, ...]) -> str:
    return f"""
local paths, made, at = {{{", ".join(f'"{path}"' for path in paths)}}}, {{}}, 0
init = function()
  for i, path in ipairs(paths) do made[i] = wrk.format(nil, path) end
end
request = function()
  at = at % #made + 1
  return made[at]
end
"""


def _figure(pattern: str, output: str) -> float:
    found = re.search(pattern, output)
    assert found is not None, output
    return float(found.group(1))

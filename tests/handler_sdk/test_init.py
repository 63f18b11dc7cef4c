"""The package as authors see it."""

import json
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version

import pytest

import handler_sdk

from .conftest import ROOT

HEAVY = {"asyncio", "redis", "h11", "ssl", "orjson", "starlette", "uvicorn", "http.server", "argparse", "inspect"}


def run_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20).stdout


def test_exports_exactly_its_api() -> None:
    assert handler_sdk.__all__ == ["RetryableError", "__version__", "progress_update", "serverless", "start"]
    assert handler_sdk.serverless.start is handler_sdk.start
    assert handler_sdk.serverless.progress_update is handler_sdk.progress_update


def test_version_is_that_of_the_distribution() -> None:
    try:
        assert handler_sdk.__version__ == version("runlane")
    except PackageNotFoundError:
        pytest.skip("runlane is not installed")


def test_import_is_fast_and_loads_nothing_heavy() -> None:
    code = """
import json, sys, time
before = set(sys.modules)
began = time.perf_counter()
import handler_sdk
print(json.dumps([time.perf_counter() - began, sorted(set(sys.modules) - before)]))
"""
    results = [json.loads(run_python(code)) for _ in range(3)]
    assert min(seconds for seconds, _ in results) < 0.15
    assert not HEAVY & set(results[0][1])


def test_progress_outside_of_a_job_does_nothing() -> None:
    began = time.perf_counter()
    handler_sdk.progress_update({"id": "x"}, {"step": 1})
    assert time.perf_counter() - began < 1

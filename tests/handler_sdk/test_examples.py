"""The examples, in this process and by hand."""

import asyncio
import hashlib
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from handler_sdk.examples import compress_async, keywords, primes

from .conftest import ROOT

TEXT = """# Cats

The cat sleeps. A cat and another cat sleep on the warm roof of the house, as cats do all day long.

# Ships

The ship sails. A ship and another ship sail over the cold sea to the harbour, as ships do all year long.
"""


def test_keywords_tells_what_each_section_is_about() -> None:
    *sections, summary = keywords.handler({"input": {"text": TEXT, "top": 2}})
    assert [section["title"] for section in sections] == ["Cats", "Ships"]
    assert sections[0]["keywords"][0]["word"] == "cat"
    assert {keyword["word"] for keyword in sections[1]["keywords"]} == {"ship", "the"} or (
        sections[1]["keywords"][0]["word"] == "ship"
    )
    assert len(sections[0]["keywords"]) == 2
    assert summary["sections"] == 2
    assert summary["words"] == sum(section["words"] for section in sections)


@pytest.mark.parametrize(
    "given", [None, {}, {"text": " "}, {"text": 5}, {"text": "x", "top": 0}, {"text": "x", "top": True}]
)
def test_keywords_refuses_other_input(given: Any) -> None:
    (chunk,) = keywords.handler({"input": given})
    assert list(chunk) == ["error"]


@pytest.mark.parametrize(("limit", "count", "largest"), [(2, 1, 2), (100, 25, 97), (3_000_000, 216_816, 2_999_999)])
def test_primes_counts(limit: int, count: int, largest: int) -> None:
    assert primes.handler({"id": "x", "input": {"limit": limit}}) == {
        "limit": limit,
        "primes": count,
        "largest": largest,
    }


def test_primes_refuses_other_input() -> None:
    assert "error" in primes.handler({"input": {"limit": 1}})


def test_compress_measures_the_text() -> None:
    text = "to be or not to be " * 50
    output = asyncio.run(compress_async.handler({"input": {"text": text}}))
    assert output["compressed"]["zlib"] == len(zlib.compress(text.encode(), 9))
    assert output["best"] == min(output["compressed"], key=output["compressed"].get)
    assert output["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert output["bytes"] == len(text)
    assert "error" in asyncio.run(compress_async.handler({"input": 5}))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("keywords", '{"input": {"text": "One thing.\\n\\nAnother.", "top": 3}}'),
        ("primes", '{"input": {"limit": 1000}}'),
        ("compress_async", '{"input": {"text": "to be or not to be"}}'),
    ],
)
def test_each_runs_as_its_file_says(name: str, given: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / f"handler_sdk/examples/{name}.py"), "--test_input", given]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "completed successfully" in result.stdout

"""How `make bench` takes its measurements and shows what was found; the measurements themselves are not run here."""

import itertools
import json
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.bench import __main__ as bench
from loadtest.bench import draining, flatness, scaling, table, waiting
from loadtest.bench.__main__ import MEASUREMENTS, _chosen
from loadtest.bench.environment import NotMeasuredError
from loadtest.bench.measurement import Figures, Measurement, Relation, Result, Round, Row, Tree, take

FAST = Row("what", "the floor", "jobs/s", least=0.5)


def measurement(log: list[str], figures: dict[str, list[Figures]]) -> Measurement:
    """One that says when it is taken of which tree, and finds these figures there."""

    @contextmanager
    def start(tree: Tree) -> Iterator[Round]:
        found = iter(figures[tree.name])
        log.append(f"start {tree.name}")

        def once() -> dict[str, Figures]:
            log.append(tree.name)
            return {"row": next(found)}

        yield once
        log.append(f"end {tree.name}")

    return Measurement("name", {"row": FAST}, start)


def test_two_trees_are_measured_in_turn() -> None:
    log: list[str] = []
    figures = {"a": [Figures(6, 10), Figures(8, 10)], "b": [Figures(3, 10), Figures(5, 10)]}
    results = take(measurement(log, figures), [Path("a"), Path("b")], rounds=2)
    assert log == ["start a", "start b", "a", "b", "a", "b", "end b", "end a"]
    assert [found["row"].figures for found in results] == [figures["a"], figures["b"]]


def test_the_result_is_the_median_of_how_the_rounds_relate() -> None:
    """A round in which the machine was slow counts as any other."""
    result = Result(FAST, [Figures(5, 10), Figures(0.9, 1), Figures(60, 100)])
    assert result.relation == 0.6
    added = Row("what", "the floor", "ms", most=3, relation=Relation.ADDED)
    assert Result(added, [Figures(5, 4), Figures(9, 5), Figures(2, 0)]).relation == 2


@pytest.mark.parametrize(
    ("row", "relation", "is_met"),
    [
        (FAST, 0.5, True),
        (FAST, 0.49, False),
        (Row("", "", "", most=1.5), 1.5, True),
        (Row("", "", "", most=1.5), 1.6, False),
        (Row("", "", ""), 0, True),
    ],
)
def test_a_target_is_reached_or_not(row: Row, relation: float, is_met: bool) -> None:
    assert row.is_met(relation) is is_met


def test_the_table_says_what_was_reached_and_what_has_changed(tmp_path: Path) -> None:
    now = Result(FAST, [Figures(4000, 10_000), Figures(4400, 10_000)])
    before = Result(FAST, [Figures(2000, 10_000), Figures(2000, 10_000)])
    head, line = table.shown([("row", [now, before])]).splitlines()
    assert head.split() == ["ours", "against", "target", "before", "change"]
    assert line.split() == ["what", "4,200", "jobs/s", "10,000", "jobs/s", "the", "floor", "0.42", "≥", "0.5", "MISSED",
                            "0.2", "+110.0%"]  # fmt: skip
    nothing = Result(FAST, [Figures(0, 10_000), Figures(0, 10_000)])
    assert [table.change(*pair) for pair in ((nothing, nothing), (now, nothing), (nothing, now))] == [0, math.inf, -1]
    table.write([("row", [now, before])], ["new", "old"], tmp_path / "bench.json")
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["revisions"] == ["new", "old"]
    assert written["rows"][0]["results"][0]["rounds"] == [[4000, 10_000], [4400, 10_000]]
    assert written["rows"][0]["met"] is False


@contextmanager
def refused(_tree: Tree) -> Iterator[Round]:
    """One that knows why it cannot be taken."""
    raise NotMeasuredError("the worker did not become ready")
    yield


def test_one_that_fails_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = measurement([], {bench.HERE.name: [Figures(6, 10), Figures(8, 10)]})
    bad = replace(measurement([], {bench.HERE.name: []}), name="bad")
    monkeypatch.setattr(bench, "MEASUREMENTS", [bad, replace(bad, name="refused", start=refused), good])
    file = tmp_path / "bench.json"
    monkeypatch.setattr("sys.argv", ["bench", "--rounds", "2", "--json", str(file)])
    with pytest.raises(SystemExit, match="not measured: bad, refused"):
        bench.main()
    told = capsys.readouterr()
    assert "StopIteration" in told.err
    assert told.err.count("Traceback") == 1
    assert "refused is not measured: the worker did not become ready" in told.err
    assert told.out.split()[-4:] == ["0.7", "≥", "0.5", "met"]
    assert [row["name"] for row in json.loads(file.read_text())["rows"]] == ["row"]


def test_a_program_with_one_measurement_ends_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["scaling"])
    monkeypatch.setattr(scaling, "server", refused)
    with pytest.raises(SystemExit, match=r"^the worker did not become ready$") as ended:
        scaling.main()
    assert ended.value.__suppress_context__


def test_the_fastest_library_is_chosen_once_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def measure(name: str, _store: str, _count: int, _tree: Tree | None = None) -> float:
        measured.append(name)
        return {"saq": 3, "runlane": 10}.get(name, 2)

    monkeypatch.setattr(draining, "measure", measure)
    draining._fastest.cache_clear()
    (measurement,) = draining.MEASUREMENTS
    try:
        found = take(measurement, [Path("a"), Path("b")], rounds=1)
        assert [results["drain"].figures for results in found] == [[Figures(10, 3)]] * 2
        assert measured == [*draining.RIVALS, *["runlane", "saq"] * 2]
        assert "saq, fastest of 7 libraries" in table.shown([("drain", [found[0]["drain"]])])
    finally:
        draining._fastest.cache_clear()


class Queue(flatness.Client):
    """Counts the jobs of one endpoint that wait; `lengths`: how many, at the begin and the end of each slice."""

    def __init__(self) -> None:
        self.length = 0
        self.lengths: list[int] = []

    def call(self, method: str, path: str, body: str | None = None) -> None:
        self.length = {"run": self.length + 1, "purge-queue": 0, "add-batch": self.length + 10}[path.rpartition("/")[2]]

    def idle(self) -> float:
        return 0.0

    def used(self) -> float:
        self.lengths.append(self.length)
        return 0.0


def test_a_short_queue_is_as_short_before_each_slice() -> None:
    queue = Queue()
    place = flatness._Place(queue, ["q"], lambda: queue.queue_only("q", 10))
    assert len(list(itertools.islice(place.costs(flatness._run), 3))) == 3
    assert queue.lengths == [10, 10 + flatness.CALLS // flatness.SLICES] * 3


OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
COMMENT, END, LOST = b"f\r\n: still there\r\n\r\n", b"0\r\n\r\n", b"lost"


@pytest.mark.parametrize(
    ("is_stream", "answers", "told"),
    [
        (False, [b"", b""], ""),
        (False, [b"", OK, LOST], "2 of 3 did not wait, 1 of which"),
        (True, [OK, OK + COMMENT], ""),
        (True, [OK, OK + END, b""], "2 of 3 did not wait, 0 of which"),
        (True, [OK, LOST, b"HTTP/1.1 429 Too Many Requests\r\n\r\n"], "2 of 3 did not wait, 1 of which"),
    ],
)
def test_those_whose_memory_is_told_all_wait(
    monkeypatch: pytest.MonkeyPatch, is_stream: bool, answers: list[bytes], told: str
) -> None:
    monkeypatch.setattr(waiting, "connections", lambda _gateway, _port: len(answers))
    requests = [waiting._Waiting(b"", is_stream) for _ in answers]
    for request, answer in zip(requests, answers, strict=True):
        if answer == LOST:
            request.connection_lost(None)
        else:
            request.data_received(answer)
    with pytest.raises(NotMeasuredError, match=told) if told else nullcontext():
        waiting._check_all_wait(0, 0, requests)


def test_the_gateway_has_the_connections_of_all_that_wait() -> None:
    requests = [waiting._Waiting(b"", is_stream=False) for _ in range(2)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            waiting._check_all_wait(os.getpid(), port, requests[:1])
            with pytest.raises(NotMeasuredError, match="has 1 connections for 2 requests that wait"):
                waiting._check_all_wait(os.getpid(), port, requests)


def test_each_row_has_a_name_of_its_own() -> None:
    names = [name for each in MEASUREMENTS for name in each.rows]
    assert len(names) == len(set(names)) > 20
    assert [each.name for each in _chosen("status,run")] == ["status", "run"]
    with pytest.raises(SystemExit, match="no such measurement: nothing"):
        _chosen("run,nothing")

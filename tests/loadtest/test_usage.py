"""Wrong calls, servers that refuse, thresholds and exit statuses."""

import os
import signal
import threading
from pathlib import Path

import msgspec
import psutil
import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from loadtest import results
from loadtest.cli import main
from loadtest.key import VARIABLES

from .running import KEY, measure, run, start
from .standin import StandIn

NOBODY = "http://127.0.0.1:9/v2/e"


def invoke(*arguments: object, key: str = KEY) -> Result:
    """Runs it in this process."""
    variables = dict.fromkeys(VARIABLES) | {"RUNLANE_API_KEY": key}
    return CliRunner(env=variables).invoke(main, list(map(str, arguments)), catch_exceptions=False)


def test_nothing_listens(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    done = run("run", NOBODY, "--json", file)
    assert (done.returncode, done.stdout, file.exists()) == (2, "", False)
    assert done.stderr == (
        "runlane-load: nothing listens at 127.0.0.1:9: is the server running, and is that its address?\n"
    )


def test_a_refused_key(url: str) -> None:
    wrong = "rl-wrong-key-9876543210"
    done = run("run", url, key=wrong)
    assert (done.returncode, done.stdout) == (2, "")
    assert "refuses the key: check RUNLANE_API_KEY" in done.stderr
    assert wrong not in done.stderr


def test_no_key(url: str) -> None:
    done = invoke("run", url, key="")
    assert done.exit_code == 2
    assert "wants a key: set RUNLANE_API_KEY" in done.stderr


def test_no_such_endpoint(url: str) -> None:
    done = invoke("run", f"{url}-not")
    assert done.exit_code == 2
    assert f"there is no endpoint at {url}-not" in done.stderr


def test_thresholds_decide_the_exit_status(url: str, tmp_path: Path) -> None:
    conditions = ("p99 > 1us", "errors > 0%", "throughput < 1000000", "first_token.p50 > 1s", "errors.http_500 > 0")
    arguments = [argument for condition in conditions for argument in ("--fail-if", condition)]
    file = tmp_path / "results.json"
    done = run("runsync", url, "--rate", 10, "--duration", "1s", "--json", file, *arguments)
    lines = [line for line in done.stderr.splitlines() if "missed" in line]
    assert done.returncode == 1
    assert [line.split(": ")[2] for line in lines] == ["p99 > 1us", "throughput < 1000000", "first_token.p50 > 1s"]
    assert "% over" in lines[0]
    assert "% under" in lines[1]
    assert lines[2].endswith("there is no first_token.p50")
    assert results.read(file).totals.succeeded == 10


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--fail-if", "p99 > 200"), "'p99 > 200': p99 needs a unit, us or ms or s or m"),
        (("--fail-if", "speed > 1"), "there is no 'speed'"),
        (("--fail-if", "p99 of 3ms"), "is not like 'p99 > 200ms'"),
        (("--fail-if", "p99 > +10%"), "a value with a sign is a change in %, for `compare`"),
        (("--fail-if", "errors > 5ms"), "errors is not in 'ms'"),
        (("--fail-if", "errors > 5"), "errors is a share of the operations, such as 5% or 0.05"),
        (("--fail-if", "errors.http_500 > 1"), "is a share of the operations"),
        (("--rate", "1", "--ramp", "1:2"), "--rate: a --ramp has its own rates"),
        (("--duration", "5s", "--ramp", "1:2"), "--duration: a --ramp takes as long as its --steps"),
        (("--steps", "3"), "--steps: it is for a --ramp"),
        (("--knee-p99", "1s"), "--knee-p99: it is for a --ramp"),
        (("--connections", "3", "--arrivals", "poisson"), "--arrivals: a closed loop has none"),
        (("--connections", "3", "--most-open", "9"), "--most-open: a closed loop has no more"),
        (("--rate", "nan"), "'nan' is no rate"),
        (("--rate", "inf"), "'inf' is no rate"),
        (("--json", ""), "the name of the file is empty"),
        (("--json", "x", "--html", "x"), "--json and --html name the same file"),
        (("--ramp", "5:1"), "the lower one first"),
        (("--duration", "30"), "'30' is no duration such as 30s or 5m"),
        (("--duration", "1500ms"), "no whole number of seconds"),
        (("--duration", "0s"), "shorter than 1s"),
        (("--input", "{"), "is no JSON"),
        (("--input", "@/no/such/file"), "cannot read /no/such/file"),
        (("--json", "/no/such/folder/x.json"), "is no folder that can be written to"),
        (("--key-file", "/no/such/key"), "cannot read the key"),
        (("--key", KEY), "No such option"),
    ],
)
def test_wrong_calls_are_told_before_anything_is_sent(arguments: tuple[str, ...], says: str) -> None:
    done = invoke("run", NOBODY, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("walk=1", "there is no 'walk' to mix"),
        ("run", "is not like"),
        ("run=0", "not more than 0"),
        ("status=1", "--follow: only `run` is followed"),
    ],
)
def test_wrong_weights(weights: str, says: str) -> None:
    done = invoke("mixed", NOBODY, "--no-follow", "--weights", weights)
    assert done.exit_code == 2
    assert says in done.stderr


@pytest.mark.parametrize(
    "url",
    [
        "e", "ftp://h/v2/e", "http://u:secret@h/v2/e", "http://h/v2/e?key=secret", "http://h:99999/v2/e",
        "http://h:port/v2/e", "http://[::1/v2/e", "http:///v2/e",
    ],
)  # fmt: skip
def test_wrong_urls(url: str) -> None:
    done = invoke("run", url)
    assert (done.exit_code, isinstance(done.exception, SystemExit)) == (2, True)
    assert "secret" not in done.output


def test_a_batch_needs_the_gateways_url() -> None:
    done = invoke("batch", "http://127.0.0.1:9/e")
    assert done.exit_code == 2


def test_a_server_that_is_something_else(standin: StandIn) -> None:
    done = invoke("run", standin.url.removesuffix("e") + "f")
    assert done.exit_code == 2
    assert "there is no endpoint" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_of_its_processes_ends_it_in_order(url: str, tmp_path: Path, number: signal.Signals) -> None:
    """As Ctrl-C at a terminal, `timeout` and those who run services send it."""
    file = tmp_path / "results.json"
    arguments = ("--rate", 20, "--duration", "60s", "--processes", 2, "--json", file)
    process = start("run", url, *arguments, start_new_session=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("1 s: ")
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "interrupted: this is what came until then" in out
    found = results.read(file)
    assert found.interrupted
    assert 0.9 < found.totals.seconds < 30
    assert found.totals.succeeded + found.totals.abandoned == found.totals.sent > 0


def test_what_a_lost_process_leaves_is_written(url: str, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    process = start("run", url, "--rate", 20, "--duration", "3s", "--processes", 2, "--json", file)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("1 s: ")
    children = psutil.Process(process.pid).children()
    next(each for each in children if "spawn_main" in " ".join(each.cmdline())).kill()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 2, err
    assert "1 of the 2 processes that generated the load ended before their time" in out
    assert err.endswith("runlane-load: not all of the load was generated, as said above\n")
    found = results.read(file)
    assert found.generator.lost == 1
    assert 30 <= found.totals.succeeded < 60


def test_results_that_cannot_be_written_are_shown(standin: StandIn) -> None:
    done = invoke("run", standin.url, "--duration", "1s", "--no-follow", "--json", "/dev/full")
    assert done.exit_code == 2
    assert "cannot write /dev/full: No space left on device" in done.stderr
    assert "Totals" in done.stdout


def test_results_that_cannot_be_shown_are_written(standin: StandIn, tmp_path: Path) -> None:
    files = tmp_path / "results.json", tmp_path / "results.html"
    process = start("run", standin.url, "--duration", "1s", "--no-follow", "--json", files[0], "--html", files[1])
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        process.wait(20)
    assert results.read(files[0]).totals.succeeded == 10
    assert files[1].stat().st_size > 1_000_000


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_before_the_load_began_leaves_nothing_behind(standin: StandIn, times: int) -> None:
    """The server takes the first job, and does not answer."""
    asked = threading.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        asked.set()
        return await standin.hold(request)

    standin.respond = hang
    process = start("mixed", standin.url, "--processes", 2, "--timeout", "10m", start_new_session=True)
    assert asked.wait(20)
    children = psutil.Process(process.pid).children()
    for _ in range(times):
        os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode in (2, -signal.SIGTERM)
    assert times == 2 or err.endswith("runlane-load: broken off before the load began\n")
    assert psutil.wait_procs(children, 20)[1] == []


@pytest.fixture(scope="module")
def measured(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    measure(folder, "runsync", url, "--rate", 10, "--duration", "1s")
    return folder / "results.json"


def test_compare_with_itself(measured: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run("compare", measured, measured, "--html", page, "--fail-if", "p99 > +1%", "--fail-if", "throughput < -1%")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if "%" in line]
    assert {row[0] for row in rows} >= {"throughput", "errors", "latency.p99", "execution.p50"}
    assert all("+0.0%" in row for row in rows if row[0] != "*")
    assert "p99 of the latency" in page.read_text()


def test_compare_says_what_got_worse(measured: Path, tmp_path: Path) -> None:
    worse = tmp_path / "worse.json"
    found = results.read(measured)
    totals = found.totals
    halved = msgspec.structs.replace(totals, throughput=totals.throughput / 2)
    results.write(msgspec.structs.replace(found, totals=halved), worse)
    done = invoke("compare", measured, worse, "--fail-if", "throughput < -10%", "--fail-if", "p99 > +10%")
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        f"runlane-load: missed: throughput < -10%: {totals.throughput:.1f}/s became {totals.throughput / 2:.1f}/s, "
        "-50.0%"
    ]


def test_report_makes_the_page_again(measured: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = invoke("report", measured, "--html", page)
    assert done.exit_code == 0, done.stderr
    assert "Latency by percentile" in page.read_text()
    assert done.stdout.startswith("runsync at ")


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    for name, content, says in (
        ("a", "[]", "is not what --json writes"),
        ("b", '{"schema_version": 99}', "has the schema 99"),
        ("c", None, "cannot read"),
    ):
        file = tmp_path / name
        if content is not None:
            file.write_text(content)
        done = invoke("report", file)
        assert done.exit_code == 2
        assert says in done.stderr

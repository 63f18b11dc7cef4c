"""Runs of every kind of handler, in this process, without a worker."""

import asyncio
import functools
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from handler_sdk import RetryableError
from handler_sdk.local import Collector
from handler_sdk.outcomes import Limits, Outcome
from handler_sdk.runners import HandlerConfig, HandlerKind, Run, kind_of

JOB = {"id": "job", "input": 3, "attempt": 1}


def plain(job: dict[str, Any]) -> Any:
    return job["input"]


async def coroutine(job: dict[str, Any]) -> Any:
    await asyncio.sleep(0)
    return job["input"]


def generator(job: dict[str, Any]) -> Iterator[Any]:
    yield from range(job["input"])


async def async_generator(job: dict[str, Any]) -> AsyncIterator[Any]:
    for number in range(job["input"]):
        await asyncio.sleep(0)
        yield number


LIMITS = Limits()


def execute(
    handler: Callable[..., Any], limits: Limits = LIMITS, job: dict[str, Any] = JOB, **config: Any
) -> tuple[Outcome, list[Any]]:
    """Runs the handler as the handler's process would; returns the outcome and the chunks."""
    handler_config = HandlerConfig.of({"handler": handler, **config})
    collector = Collector()
    run = Run(handler_config, dict(job), collector, limits, "worker-1")
    outcome = asyncio.run(run.run_async()) if handler_config.kind.is_async else run.run()
    return outcome, [json.loads(chunk) for chunk in collector.chunks]


def returning(value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda job: value


class TestKinds:
    @pytest.mark.parametrize(
        ("handler", "kind"),
        [
            (plain, HandlerKind.PLAIN),
            (coroutine, HandlerKind.COROUTINE),
            (generator, HandlerKind.GENERATOR),
            (async_generator, HandlerKind.ASYNC_GENERATOR),
        ],
    )
    def test_are_seen_through_partials_objects_and_methods(self, handler: Any, kind: HandlerKind) -> None:
        class Callable:
            __call__ = staticmethod(handler)
            method = staticmethod(handler)

        assert kind_of(handler) is kind
        assert kind_of(functools.partial(functools.partial(handler), option=1)) is kind
        assert kind_of(Callable().method) is kind

    def test_of_objects_with_a_call_method(self) -> None:
        class Model:
            async def __call__(self, job: dict[str, Any]) -> int:
                return 7

        assert kind_of(Model()) is HandlerKind.COROUTINE
        assert execute(Model())[0].value == b"7"

    @pytest.mark.parametrize("handler", [plain, coroutine])
    def test_that_return_complete_with_their_output(self, handler: Any) -> None:
        assert execute(handler) == (Outcome("COMPLETED", "output", b"3"), [])

    @pytest.mark.parametrize("handler", [generator, async_generator])
    def test_that_yield_complete_without_output(self, handler: Any) -> None:
        assert execute(handler) == (Outcome("COMPLETED"), [0, 1, 2])

    @pytest.mark.parametrize("handler", [generator, async_generator])
    def test_that_yield_can_be_aggregated(self, handler: Any) -> None:
        outcome, chunks = execute(handler, return_aggregate_stream=True)
        assert outcome == Outcome("COMPLETED", "output", b"[0,1,2]")
        assert chunks == [0, 1, 2]

    @pytest.mark.parametrize("handler", [coroutine, generator, async_generator])
    def test_are_known_by_what_a_plain_function_returns(self, handler: Any) -> None:
        assert execute(lambda job: handler(job)) == execute(handler)

    @pytest.mark.parametrize("made", [generator, async_generator, coroutine])
    def test_are_known_by_what_a_coroutine_returns(self, made: Any) -> None:
        async def handler(job: dict[str, Any]) -> Any:
            return made(job)

        assert execute(handler) == execute(made)

    def test_of_coroutines_in_threads_share_a_loop_between_jobs(self) -> None:
        loops = []

        async def work() -> None:
            loops.append(asyncio.get_running_loop())

        execute(lambda job: work())
        execute(lambda job: work())
        assert loops[0] is loops[1]


class TestOutput:
    @pytest.mark.parametrize(
        "value",
        [
            None,
            0,
            False,
            "",
            [],
            {},
            "12345",
            "žluťoučký 🐎",
            1.5,
            {"error": None},
            {"error": "", "x": 1},
            2**70,
            -(2**90),
        ],
    )
    def test_is_exactly_what_was_returned(self, value: Any) -> None:
        outcome, _ = execute(returning(value))
        assert outcome.state == "COMPLETED"
        assert json.loads(outcome.value) == value

    def test_may_be_nested_deeply(self) -> None:
        value: Any = 1
        for _ in range(600):
            value = [value]
        assert json.loads(execute(returning(value))[0].value) == value

    def test_keeps_non_ascii_text_unescaped_also_beside_a_big_integer(self) -> None:
        assert execute(returning(["é", 2**80]))[0].value.decode() == f'["é", {2**80}]'

    def test_may_have_a_lone_surrogate(self) -> None:
        assert json.loads(execute(returning("\ud83d"))[0].value) == "\ud83d"

    def test_that_is_not_json_fails_the_job_and_names_the_type(self) -> None:
        outcome, _ = execute(returning({"a": [object()]}))
        assert outcome == Outcome(
            "FAILED", "error", b"the handler's output is not JSON: Type is not JSON serializable: object"
        )

    def test_that_is_too_large_fails_the_job_with_both_sizes(self) -> None:
        outcome, _ = execute(returning("x" * 99), Limits(output=100))
        assert outcome.value == b"the handler's output has 101 bytes; the limit is 100 bytes"
        assert execute(returning("x" * 98), Limits(output=100))[0].state == "COMPLETED"

    def test_aggregated_counts_against_the_limit(self) -> None:
        outcome, chunks = execute(generator, Limits(output=6), return_aggregate_stream=True)
        assert outcome.value == b"the handler's output has 7 bytes; the limit is 6 bytes"
        assert chunks == [0, 1]
        assert execute(generator, Limits(output=7), return_aggregate_stream=True)[0].state == "COMPLETED"


class TestErrors:
    def test_in_a_returned_dict_fail_the_job(self) -> None:
        assert execute(returning({"error": "no such voice"}))[0] == Outcome("FAILED", "error", b"no such voice")

    def test_that_are_no_text_become_json(self) -> None:
        assert execute(returning({"error": {"code": 7}}))[0].value == b'{"code":7}'

    @pytest.mark.parametrize("is_async", [False, True])
    def test_yielded_end_the_job_and_keep_the_chunks(self, is_async: bool) -> None:
        closed = []

        def failing(job: dict[str, Any]) -> Iterator[Any]:
            try:
                yield 1
                yield {"error": "out of ideas"}
                yield 2
            finally:
                closed.append(True)

        async def failing_async(job: dict[str, Any]) -> AsyncIterator[Any]:
            for value in failing(job):
                yield value

        outcome, chunks = execute(failing_async if is_async else failing)
        assert outcome == Outcome("FAILED", "error", b"out of ideas")
        assert chunks == [1]
        assert closed

    @pytest.mark.parametrize("kind", list(HandlerKind))
    def test_raised_have_the_fields_of_runpod(self, kind: HandlerKind, capsys: pytest.CaptureFixture[str]) -> None:
        def fail() -> None:
            raise ValueError("bad voice")

        def raising(job: Any) -> None:
            fail()

        async def raising_coroutine(job: Any) -> None:
            fail()

        def raising_generator(job: Any) -> Iterator[int]:
            yield 1
            fail()

        async def raising_async_generator(job: Any) -> AsyncIterator[int]:
            yield 1
            fail()

        handlers = [raising, raising_generator, raising_coroutine, raising_async_generator]
        outcome, _ = execute(next(handler for handler in handlers if kind_of(handler) is kind))
        error = json.loads(outcome.value)
        assert outcome.state == "FAILED"
        assert list(error) == [
            "error_type",
            "error_message",
            "error_traceback",
            "hostname",
            "worker_id",
            "runlane_version",
        ]
        assert (error["error_type"], error["error_message"]) == ("<class 'ValueError'>", "bad voice")
        assert error["worker_id"] == "worker-1"
        assert "in fail" in error["error_traceback"]
        assert "/handler_sdk/runners.py" not in error["error_traceback"]
        assert error["error_traceback"] in capsys.readouterr().err

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), StopIteration()])
    def test_of_every_sort_fail_only_the_job(self, error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
        def raising(job: Any) -> None:
            raise error

        async def raising_async(job: Any) -> None:
            raise error

        assert execute(raising)[0].state == "FAILED"
        assert execute(raising_async)[0].state == "FAILED"
        capsys.readouterr()

    @pytest.mark.parametrize("error", [RetryableError("not yet"), RetryableError()])
    def test_that_ask_for_another_try_have_their_text(self, error: RetryableError) -> None:
        def raising(job: Any) -> Any:
            raise error
            yield

        text = str(error) or "RetryableError"
        assert execute(raising)[0] == Outcome("RETRY", "error", text.encode())

    def test_that_are_huge_are_cut(self) -> None:
        value = execute(returning({"error": "é" * 10**6}))[0].value
        assert len(value) < 270_000
        assert value.endswith(b" (2000000 bytes in all)")


class TestChunks:
    def test_that_are_long_strings_are_split_between_characters(self) -> None:
        text = 'añ🐎"\n' * 5000

        def handler(job: Any) -> Iterator[str]:
            yield text

        collector = Collector()
        Run(HandlerConfig.of({"handler": handler}), dict(JOB), collector, Limits(chunk=1000)).run()
        assert "".join(json.loads(chunk) for chunk in collector.chunks) == text
        assert max(map(len, collector.chunks)) <= 1000
        assert len(collector.chunks) < 2 * sum(map(len, collector.chunks)) / 1000 + 2

    def test_of_another_type_that_are_too_large_fail_the_job(self) -> None:
        def handler(job: Any) -> Iterator[Any]:
            yield 1
            yield ["x" * 100]

        outcome, chunks = execute(handler, Limits(chunk=100))
        assert chunks == [1]
        assert b"has 104 bytes; the limit is 100 bytes" in outcome.value
        assert outcome.state == "FAILED"

    def test_that_are_not_json_fail_the_job(self) -> None:
        def handler(job: Any) -> Iterator[Any]:
            yield {1, 2}

        outcome, _ = execute(handler)
        assert outcome.value == b"a chunk of the handler is not JSON: Type is not JSON serializable: set"


class TestRefreshWorker:
    def test_in_a_returned_dict_is_removed_and_honoured(self) -> None:
        given = {"refresh_worker": True, "text": "hi"}
        assert execute(returning(given))[0] == Outcome("COMPLETED", "output", b'{"text":"hi"}', True)
        assert given == {"refresh_worker": True, "text": "hi"}

    def test_beside_an_error_is_honoured(self) -> None:
        assert execute(returning({"refresh_worker": True, "error": "no"}))[0] == Outcome("FAILED", "error", b"no", True)

    def test_in_the_config_is_honoured_for_every_job(self) -> None:
        assert execute(plain, refresh_worker=True)[0].refresh
        assert execute(generator, refresh_worker=True)[0].refresh

    def test_yielded_is_honoured_and_no_chunk(self) -> None:
        def handler(job: Any) -> Iterator[Any]:
            yield {"refresh_worker": True, "x": 1}
            yield {"refresh_worker": True}

        assert execute(handler) == (Outcome("COMPLETED", refresh=True), [{"x": 1}])


class TestStop:
    def test_cancels_a_coroutine(self) -> None:
        seen = []

        async def handler(job: Any) -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        assert self.stop_soon(handler) == "STOPPED"
        assert seen == ["cancelled"]

    def test_cancels_an_async_generator(self) -> None:
        seen = []

        async def handler(job: Any) -> AsyncIterator[int]:
            try:
                yield 1
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise
            finally:
                seen.append("closed")

        assert self.stop_soon(handler) == "STOPPED"
        assert seen == ["cancelled", "closed"]

    def stop_soon(self, handler: Callable[[Any], Awaitable[None] | AsyncIterator[int]]) -> str:
        async def main() -> Outcome:
            run = Run(HandlerConfig.of({"handler": handler}), dict(JOB), Collector(), Limits())
            task = asyncio.create_task(run.run_async())
            for _ in range(3):
                await asyncio.sleep(0)
            assert run.stop()
            return await asyncio.wait_for(task, 5)

        return asyncio.run(main()).state

    def test_before_the_first_step_keeps_a_coroutine_from_starting(self) -> None:
        async def main() -> Outcome:
            run = Run(HandlerConfig.of({"handler": coroutine}), dict(JOB), Collector(), Limits())
            run.stop()
            return await run.run_async()

        assert asyncio.run(main()).state == "STOPPED"

    def test_closes_a_generator_at_its_next_yield(self) -> None:
        seen: list[Any] = []
        run: Run

        def handler(job: Any) -> Iterator[int]:
            try:
                yield 1
                run.stop()
                yield 2
                seen.append("went on")
            except GeneratorExit:
                seen.append("closed")

        collector = Collector()
        run = Run(HandlerConfig.of({"handler": handler}), dict(JOB), collector, Limits())
        assert run.run().state == "STOPPED"
        assert seen == ["closed"]
        assert collector.chunks == [b"1"]

    def test_cannot_reach_a_plain_function(self) -> None:
        started, released = threading.Event(), threading.Event()

        def handler(job: Any) -> None:
            started.set()
            released.wait(10)

        run = Run(HandlerConfig.of({"handler": handler}), dict(JOB), Collector(), Limits())
        thread = threading.Thread(target=run.run)
        thread.start()
        assert started.wait(10)
        assert not run.stop()
        released.set()
        thread.join(10)


class TestConfig:
    @pytest.mark.parametrize("config", [{}, {"handler": None}, {"handler": 5}])
    def test_needs_a_handler(self, config: dict[str, Any]) -> None:
        with pytest.raises(TypeError, match="handler"):
            HandlerConfig.of(config)

    @pytest.mark.parametrize("modifier", [5, coroutine])
    def test_needs_a_plain_modifier(self, modifier: Any) -> None:
        with pytest.raises(TypeError, match="concurrency_modifier"):
            HandlerConfig.of({"handler": plain, "concurrency_modifier": modifier})

"""What is printed, as lines."""

import os
import random
import re
import threading
import time

import pytest

from handler_sdk import output
from handler_sdk.output import MOST_BYTES, MOST_IN_LINE, MOST_LINES, OWN, Output


def texts(printed: Output, final: bool = False) -> list[str]:
    return [line.text for line in printed.lines(final)]


def all_lines(found: list[str]) -> int:
    """How many lines were printed: those that are there, and those that are said to be left out."""
    left_out = [re.fullmatch(r"\[runlane: (\d+) lines left out]", text) for text in found]
    return sum(int(each[1]) if each else 1 for each in left_out)


class TestLines:
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
    def test_are_the_same_however_they_are_read(self, size: int) -> None:
        printed = Output()
        data = "one\n\n zwölf €\r\nlast 😀".encode()
        for at in range(0, len(data), size):
            printed.add("stdout", data[at : at + size])
        assert texts(printed) == ["one", "", " zwölf €"]
        assert texts(printed, final=True) == ["one", "", " zwölf €", "last 😀"]

    def test_of_two_streams_stay_apart(self) -> None:
        printed = Output()
        for stream, block in (("stdout", b"a"), ("stderr", b"1\n2"), ("stdout", b"b\nc"), ("stderr", b"3\n")):
            printed.add(stream, block)  # type: ignore[arg-type]
        found = [(line.stream, line.text) for line in printed.lines(True)]
        assert found == [("stderr", "1"), ("stdout", "ab"), ("stderr", "23"), ("stdout", "c")]

    def test_of_bytes_that_are_no_text(self) -> None:
        printed = Output()
        printed.add("stdout", b"\xff\x00\xc3\n")
        assert texts(printed) == ["\ufffd\x00\ufffd"]

    @pytest.mark.parametrize(
        ("data", "shown"),
        [
            (b"\r 10%\r 20%\n", " 20%"),
            (b" 10%\r\r\r\n", " 10%"),
            (b"a\rbc\r\n", "bc"),
            (b"\r\n", ""),
            (b"a\r\rb\n", "b"),
        ],
    )
    @pytest.mark.parametrize("size", [1, 1000])
    def test_show_what_a_carriage_return_left(self, data: bytes, shown: str, size: int) -> None:
        printed = Output()
        for at in range(0, len(data), size):
            printed.add("stderr", data[at : at + size])
        assert texts(printed) == [shown]

    def test_without_an_end_are_told_after_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        printed = Output()
        printed.add("stderr", b" 10%\r 20%")
        assert texts(printed) == []
        monkeypatch.setattr(output, "UNFINISHED_SECONDS", 0.0)
        assert texts(printed) == [" 20%"]
        printed.heard(1)
        assert texts(printed) == []
        printed.add("stderr", b"\r 30%\n")
        assert texts(printed) == [" 30%"]

    @pytest.mark.parametrize("size", [1000, 10**6])
    def test_that_are_too_long_are_cut(self, size: int) -> None:
        printed = Output()
        data = b"x" * 50_000 + b"\nnext\n"
        for at in range(0, len(data), size):
            printed.add("stdout", data[at : at + size])
        assert texts(printed) == ["x" * MOST_IN_LINE + f" [runlane: {50_000 - MOST_IN_LINE} bytes more]", "next"]

    def test_that_were_heard_do_not_come_again(self) -> None:
        printed = Output()
        printed.add("stdout", b"one\ntwo\n")
        first = printed.lines()
        printed.add("stdout", b"three\n")
        assert [line.number for line in printed.lines()] == [1, 2, 3]
        printed.heard(first[-1].number)
        assert [(line.number, line.text) for line in printed.lines()] == [(3, "three")]

    def test_know_when_they_were_printed(self) -> None:
        printed, before = Output(), time.monotonic()
        printed.add("stdout", b"one\n")
        (line,) = printed.lines()
        assert before <= line.at <= time.monotonic()


class TestFlood:
    @pytest.mark.parametrize("seed", range(20))
    def test_leaves_the_newest_and_says_how_many_are_missing(self, seed: int) -> None:
        """Whatever is printed when, and heard or not: each line is told, or counted."""
        numbers = random.Random(seed)
        printed, count, heard = Output(), 0, list[str]()
        for _ in range(30):
            for _ in range(numbers.choice([0, 1, 50])):
                many = numbers.choice([1, 1, 10, 2000])
                block = b"".join(b"%d %b\n" % (count + i, b"x" * numbers.choice([0, 5, 300])) for i in range(many))
                count += many
                cut = numbers.randrange(len(block))
                stream = "stdout" if seed % 2 else numbers.choice(["stdout", "stderr"])
                for part in (block[:cut], block[cut:]):
                    printed.add(stream, part)
            found = printed.lines()
            assert len(found) <= MOST_LINES
            assert sum(len(line.text) for line in found) <= MOST_BYTES
            assert all(line.number == found[0].number + at for at, line in enumerate(found))
            if found and numbers.random() < 0.7:
                heard += [line.text for line in found]
                printed.heard(found[-1].number)
        heard += texts(printed, final=True)
        assert all_lines(heard) == count
        assert heard[-1].startswith(f"{count - 1} ")

    def test_spares_the_lines_that_are_whole(self) -> None:
        printed = Output()
        printed.add("stderr", b"a line\n")
        for _ in range(3):
            printed.add("stdout", b"x" * 65_535 + b"\n")
        printed.add("stderr", b"another line\n")
        found = {(line.stream, line.left_out or line.text[:7]) for line in printed.lines()}
        assert found == {("stderr", 1), ("stdout", 2), ("stdout", "xxxxxxx"), ("stderr", "another")}

    def test_of_one_endless_line(self) -> None:
        printed = Output()
        for _ in range(100):
            printed.add("stdout", b"x" * 65_536)
        printed.add("stdout", b"\nend\n")
        assert all_lines(texts(printed)) == 2
        assert texts(printed)[-1] == "end"


class TestCopy:
    def test_goes_on_until_nobody_can_print(self, capfd: pytest.CaptureFixture[str]) -> None:
        printed, ended = Output(), threading.Event()
        (stdout, to_stdout), (stderr, to_stderr) = os.pipe(), os.pipe()
        grandchild = os.dup(to_stdout)
        printed.copy(stdout, stderr, ended.set)
        os.write(to_stdout, b"out\n")
        os.write(to_stderr, b"err\n")
        os.close(to_stdout)
        os.close(to_stderr)
        os.write(grandchild, b"later\n")
        assert not ended.is_set()
        os.close(grandchild)
        assert ended.wait(10)
        assert sorted(texts(printed)) == ["err", "later", "out"]
        assert capfd.readouterr() == ("out\nlater\n", "err\n")

    def test_waits_for_a_reader_and_not_for_one_that_is_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of this process's own output: a pipe that is full and does not block, and then has nobody at its end."""
        printed, ended = Output(), threading.Event()
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        monkeypatch.setitem(output._DESCRIPTORS, "stdout", writing)
        (stdout, to_stdout), (stderr, to_stderr) = os.pipe(), os.pipe()
        printed.copy(stdout, stderr, ended.set)
        data = b"x" * 99 + b"\n"
        writer = threading.Thread(target=lambda: os.write(to_stdout, data * 5000) and os.close(to_stdout))
        writer.start()
        got = b""
        while len(got) < 300_000:
            got += os.read(reading, 65_536)
        assert got == (data * 5000)[: len(got)]
        os.close(reading)
        writer.join(10)
        os.close(to_stderr)
        assert ended.wait(10)
        assert all_lines(texts(printed)) == 5000
        os.close(writing)

    def test_of_what_this_process_writes(self, capsys: pytest.CaptureFixture[str]) -> None:
        """An agent has several workers in one process, each with an output of its own."""
        printed, another = Output(), Output()
        with OWN.told_to(None), OWN.told_to(printed):
            OWN.write("a line é\n")
            with OWN.told_to(another):
                OWN.write("for both\n")
        OWN.write("for none\n")
        OWN.flush()
        assert (texts(printed), texts(another)) == (["a line é", "for both"], ["for both"])
        assert capsys.readouterr().err == "a line é\nfor both\nfor none\n"

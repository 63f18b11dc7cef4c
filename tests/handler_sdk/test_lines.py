"""The lines by which an agent and a task speak."""

import pytest

from handler_sdk.lines import KEPT, Line, LineBuffer, message_in, one_line


def test_lines_are_cut_wherever_the_data_is() -> None:
    buffer = LineBuffer(100)
    pieces = [b"a", b"b\n", b"", b"\nc\nd", b"e"]
    lines = [line for piece in pieces for line in buffer.feed(piece)] + list(buffer.end())
    assert [line.text for line in lines] == [b"ab", b"", b"c", b"de"]
    assert all(line.is_whole for line in lines)


def test_of_a_line_that_is_too_long_both_ends_are_kept() -> None:
    buffer = LineBuffer(3 * KEPT)
    for _ in range(100):
        assert not list(buffer.feed(b"x" * 1000))
    (line,) = buffer.feed(b'"task_id": "job-1"}\nnext')
    assert (line.size, line.is_whole, line.task_id) == (100_019, False, "job-1")
    assert len(line.text) == 2 * KEPT
    assert list(buffer.feed(b"\n")) == [Line(b"next", 4)]


@pytest.mark.parametrize(
    ("text", "is_message"),
    [
        (b'{"status": "ready"}', True),
        (b' {"task_id": "1", "result": NaN}', True),
        (b'{"runlane": {"concurrency": 2}}', True),
        (b'{"level": "info"}', False),
        (b"[1]", False),
        (b"{", False),
        (b"loading", False),
        (b"{\xff}", False),
        (b'{"task_id": ' + b"[" * 100_000, False),
    ],
)
def test_what_is_no_message_is_a_log(text: bytes, is_message: bool) -> None:
    assert (message_in(text) is not None) == is_message


def test_json_on_several_lines_is_made_one() -> None:
    assert one_line(b'{\r\n "a":\n "b\\n"}') == b'{   "a":  "b\\n"}'

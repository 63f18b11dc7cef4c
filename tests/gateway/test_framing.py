"""Where heads and chunks end, however they are cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, HeadersTooLarge, UrlTooLong
from gateway.framing import MOST_IN_URL, Chunks, Line, take_head

HEAD = b"GET /a?b?c HTTP/1.1\r\nHost: x\r\n\r\n"


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


@given(st.lists(st.binary(min_size=1, max_size=300)), st.lists(st.integers(0, 10_000), max_size=8), st.binary())
def test_chunks_end_where_they_end(parts: list[bytes], cuts: list[int], behind: bytes) -> None:
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    chunks, taken = Chunks(), 0
    for piece in pieces(body + behind, cuts):
        taken += chunks.take(piece)
        assert chunks.is_complete is (taken == len(body))
    assert taken == len(body)


WRONG = (b"5;a\r\n", b"5 \r\n", b"5\n", b"\r\n", b"g\r\n", b"0\r\na: b\r\n", b"0\r\n\n", b"0" * 17, b"-5\r\n")


@given(st.sampled_from(WRONG), st.lists(st.integers(0, 30), max_size=4))
def test_chunks_of_another_shape(wrong: bytes, cuts: list[int]) -> None:
    chunks = Chunks()
    with pytest.raises(BadRequest):
        [chunks.take(piece) for piece in pieces(b"3\r\nabc\r\n" + wrong, cuts)]


@given(st.lists(st.integers(0, 100), max_size=5), st.binary(max_size=20))
def test_a_head_ends_where_it_ends(cuts: list[int], behind: bytes) -> None:
    came = b""
    for piece in pieces(HEAD + behind, cuts):
        searched, came = len(came), came + piece
        if not came:
            continue
        if taken := take_head(came, searched, 100):
            assert taken == (Line(b"GET", b"/a", b"b?c", b"1"), HEAD, came[len(HEAD) :])
            return
        assert len(came) < len(HEAD)
    raise AssertionError("it has no end")


def test_another_protocol_is_taken_out_and_nothing_else() -> None:
    sent = b"GET / HTTP/1.1\r\nuPgrade: h2c\r\nX-Upgrade: a\r\nUpgrade:\r\nConnection: upgrade\r\n\r\n"
    taken = take_head(sent, 0, 1000)
    assert taken is not None
    assert taken[1] == b"GET / HTTP/1.1\r\nX-Upgrade: a\r\nConnection: upgrade\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"GET /" + b"x" * MOST_IN_URL + b" HTTP/1.1\r\n\r\n", UrlTooLong),
        (b"GET /" + b"x" * 40_000, UrlTooLong),
        (b"GET / HTTP/1.1\r\n" + b"x" * 40_000, HeadersTooLarge),
        (b"\x16\x03\x01", BadRequest),
        (b"GET / HTTP/1.1\nHost: x\n\r\n\r\n", BadRequest),
    ],
)
def test_heads_that_are_none(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        take_head(data, 0, 32_768)

"""What the guard lets through and what it refuses, in every notation."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.addresses import LONGEST_URL, Guard, is_public
from gateway.errors import BadRequest, StartupError

EVERYTHING = ("0.0.0.0/0", "::/0")

REFUSED_HOSTS = [
    # loopback, in every notation
    "127.0.0.1", "127.1", "127.0.1", "0x7f.1", "0x7f000001", "0X7F.0.0.1", "2130706433", "017700000001", "0177.1",
    "0177.0.0.01", "127.0.0.1.", "１２７.０.０.１", "①②⑦.0.0.1", "127。0。0。1", "127．0．0．1", "0x7f.0.0x0.1",
    "127.255.255.254",
    "[::1]", "[0:0:0:0:0:0:0:1]", "[::0001]", "localhost", "LOCALHOST", "localhost.", "a.localhost", "a.b.LocalHost.",
    "ｌｏｃａｌｈｏｓｔ",
    # unspecified, private, shared, link-local, broadcast, multicast, reserved
    "0.0.0.0", "0", "0x0", "0.1.2.3", "[::]", "10.0.0.1", "10.1", "167772161", "172.16.0.1", "172.31.255.255",
    "192.168.1.1", "192.168.257", "100.64.0.1", "100.127.255.255", "169.254.1.1", "255.255.255.255", "4294967295",
    "224.0.0.1", "239.255.255.250", "240.0.0.1", "[fc00::1]", "[fd12::1]", "[fe80::1]", "[fec0::1]", "[ff02::1]",
    "[4000::1]", "[100::1]", "[5f00::1]", "[f000::1]",
    # metadata services
    "169.254.169.254", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "[fd00:ec2::254]", "[fd20:ce::254]",
    "100.100.100.200", "168.63.129.16", "192.0.0.192",
    # documentation, benchmarks, protocol assignments
    "192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "198.19.255.255", "192.0.0.8", "192.88.99.1",
    "192.31.196.1", "192.52.193.1", "192.175.48.1", "[2001:db8::1]", "[3fff::1]", "[2001:2::1]", "[2001:10::1]",
    "[2001:20::1]", "[2620:4f:8000::1]",
    # IPv4 in IPv6: mapped, compatible, 6to4, Teredo, NAT64 (both), SIIT, ISATAP (both); also of public ones
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:8.8.8.8]", "[::127.0.0.1]", "[::8.8.8.8]", "[2002:7f00:1::]",
    "[2002:808:808::1]", "[2001:0:7f00:1::]", "[2001::808:808]", "[64:ff9b::127.0.0.1]", "[64:ff9b::8.8.8.8]",
    "[64:ff9b:1::a00:1]", "[::ffff:0:127.0.0.1]", "[2a00::5efe:127.0.0.1]", "[2a00::200:5efe:10.0.0.1]",
]  # fmt: skip


@pytest.mark.parametrize("host", REFUSED_HOSTS)
def test_an_address_that_is_not_public_is_refused_in_every_notation(host: str) -> None:
    for url in (f"http://{host}/", f"https://{host}:8443/a"):
        with pytest.raises(BadRequest, match="may not be reached"):
            Guard().target(url)


@pytest.mark.parametrize("host", REFUSED_HOSTS)
def test_the_operator_may_allow_each_of_them(host: str) -> None:
    assert Guard(EVERYTHING).target(f"http://{host}/").path == "/"


@pytest.mark.parametrize(
    ("written", "used"),
    [
        ("http://example.com", "http://example.com/"),
        ("HTTP://EXAMPLE.com:80/A", "http://example.com/A"),
        ("https://example.com:443", "https://example.com/"),
        ("http://example.com:443/", "http://example.com:443/"),
        ("https://example.com:/", "https://example.com/"),
        ("https://example.com./a", "https://example.com/a"),
        ("https://example.com/a?b=c&d=%2F#e", "https://example.com/a?b=c&d=%2F"),
        ("https://example.com?a=b", "https://example.com/?a=b"),
        ("https://example.com/a@b:c/[d]", "https://example.com/a@b:c/[d]"),
        ("https://example.com/ä?ö=ü", "https://example.com/%C3%A4?%C3%B6=%C3%BC"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("https://my_service-1.example/", "https://my_service-1.example/"),
        ("https://localhost.example/", "https://localhost.example/"),
        ("https://8.8.8.8:8443/", "https://8.8.8.8:8443/"),
        ("https://0x08080808/", "https://8.8.8.8/"),
        ("https://134744072/", "https://8.8.8.8/"),
        ("https://[2A00:0:0::1]/", "https://[2a00::1]/"),
        ("https://[2a00::1]:8443/", "https://[2a00::1]:8443/"),
    ],
)
def test_a_url_comes_back_as_it_will_be_used(written: str, used: str) -> None:
    assert Guard().target(written).url == used
    assert Guard().target(used).url == used


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "http:// or https://"),
        ("example.com/a", "http:// or https://"),
        ("//example.com/a", "http:// or https://"),
        ("ftp://example.com/", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("gopher://example.com/", "http:// or https://"),
        ("http:", "no host"),
        ("http://", "no host"),
        ("http:///a", "no host"),
        ("http://:80/", "no host"),
        ("http:example.com", "no host"),
        ("http://me@example.com/", "user or password"),
        ("http://me:secret@example.com/", "user or password"),
        ("http://@example.com/", "user or password"),
        ("http://example.com:80@127.0.0.1/", "user or password"),
        ("http://example.com:0/", "port must be"),
        ("http://example.com:65536/", "port must be"),
        ("http://example.com:99999999999999999999/", "port must be"),
        ("http://example.com:8o/", "not well formed"),
        ("http://example.com:-1/", "not well formed"),
        ("http://example.com:８０/", "not well formed|NFKC"),
        ("http://example.com:80:80/", "not well formed"),
        ("http://[::1/", "Invalid IPv6 URL|not well formed"),
        ("http://[::1]a/", "not well formed|Invalid IPv6"),
        ("http://a[::1]/", "not well formed|Invalid IPv6"),
        ("http://[v1.a]/", "no IPv6 address|IPvFuture|not well formed"),
        ("http://[127.0.0.1]/", "no IPv6 address|IPv4"),
        ("http://[fe80::1%25eth0]/", "percent|IPv6"),
        ("http://[::1%eth0]/", "percent|IPv6"),
        ("http://127.0.0.1%2f@example.com/", "user or password"),
        ("http://%31%32%37.0.0.1/", "percent"),
        ("http://example%2ecom/", "percent"),
        ("http://1.2.3.4.5/", "ends in a number"),
        ("http://256.0.0.1/", "ends in a number"),
        ("http://09.1/", "ends in a number"),
        ("http://example.1/", "ends in a number"),
        ("http://4294967296/", "ends in a number"),
        ("http://example..com/", "not a valid name"),
        ("http://example.com../", "not a valid name"),
        ("http://./", "not a valid name"),
        ("http://-a.example/", "not a valid name"),
        ("http://a!b.example/", "not a valid name"),
        ("http://*.example/", "not a valid name"),
        (f"http://{'a' * 64}.example/", "not a valid name"),
        (f"http://{'a.' * 127}example/", "not a valid name"),
        ("http://ä\u2024\ud800/", "valid"),
        ("http://example.com/\ud800", "not valid"),
        ("http://example.com/ a", "spaces"),
        (" http://example.com/", "spaces"),
        ("http://exa\tmple.com/", "control"),
        ("http://example.com/a\r\nHost: b", "control"),
        ("http://example.com/\x00", "control"),
        ("http://example.com/\x7f", "control"),
        ("http://example.com/\x85", "control"),
        ("http://example.com\\@127.0.0.1/", "backslashes"),
        ("http://example.com/" + "a" * LONGEST_URL, "longer than 2048"),
        ("http://example.com/" + "ä" * 1000, "longer than 2048"),
    ],
)
def test_what_is_no_usable_url_is_refused_with_a_text(url: str, text: str) -> None:
    with pytest.raises(BadRequest, match=text) as caught:
        Guard(EVERYTHING).target(url)
    assert "secret" not in caught.value.message


def test_a_url_may_be_as_long_as_the_limit() -> None:
    url = "http://example.com/".ljust(LONGEST_URL, "a")
    assert Guard().target(url).url == url


@given(st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address) | st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address))
def test_no_address_is_public_that_python_knows_to_be_none(address: ipaddress.IPv4Address) -> None:
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
     "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0",
     "192.0.3.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
     "2001:200::1", "2001:4860:4860::8888", "2003::1", "2606:4700::1111", "3ffe::1", "3fff:1000::1",
     "2a00::5eff:1.2.3.4"],
)  # fmt: skip
def test_the_neighbours_of_what_is_refused_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("entry", "allowed", "not_allowed"),
    [
        ("10.0.0.0/8", [("a", 80, "10.1.2.3"), ("b", 443, "10.0.0.0")],
         [("a", 80, "172.16.0.1"), ("a", 80, "127.0.0.1")]),
        ("10.0.0.0/8:8080", [("a", 8080, "10.1.2.3")], [("a", 80, "10.1.2.3")]),
        ("127.0.0.1", [("a", 1, "127.0.0.1")], [("a", 1, "127.0.0.2")]),
        ("127.0.0.1:8080", [("a", 8080, "127.0.0.1")], [("a", 8081, "127.0.0.1")]),
        ("::1", [("a", 1, "::1")], [("a", 1, "127.0.0.1"), ("a", 1, "::2")]),
        ("::1/128", [("a", 1, "::1")], [("a", 1, "::2")]),
        ("[::1]:8080", [("a", 8080, "::1")], [("a", 80, "::1")]),
        ("[fd00::/8]:8080", [("a", 8080, "fd00::5")], [("a", 80, "fd00::5"), ("a", 8080, "fc00::5")]),
        ("[::1]", [("a", 80, "::1")], [("a", 80, "::2")]),
        ("0.0.0.0/0", [("a", 80, "127.0.0.1")], [("a", 80, "::1"), ("a", 80, "::ffff:127.0.0.1")]),
        ("Hooks.Internal.", [("hooks.internal", 80, "10.0.0.1"), ("hooks.internal", 81, "::1")],
         [("a.hooks.internal", 80, "10.0.0.1"), ("internal", 80, "10.0.0.1")]),
        ("hooks:8080", [("hooks", 8080, "10.0.0.1")], [("hooks", 80, "10.0.0.1"), ("hook", 8080, "10.0.0.1")]),
        ("host1", [("host1", 80, "10.0.0.1")], [("host2", 80, "10.0.0.1")]),
        ("bücher.example", [("xn--bcher-kva.example", 80, "10.0.0.1")], [("bucher.example", 80, "10.0.0.1")]),
    ],
)  # fmt: skip
def test_an_entry_allows_what_it_says_and_no_more(
    entry: str, allowed: list[tuple[str, int, str]], not_allowed: list[tuple[str, int, str]]
) -> None:
    guard = Guard([entry])
    assert all(guard.may_reach(host, port, ipaddress.ip_address(address)) for host, port, address in allowed)
    assert not any(guard.may_reach(host, port, ipaddress.ip_address(address)) for host, port, address in not_allowed)


@pytest.mark.parametrize(
    "entry",
    ["", "10.0.0.1/8", "10.0.0.0/33", "127.1", "0x7f000001", "[::1", "::1]", "[::1]:0", "127.0.0.1:65536", "hooks:x",
     "*.internal", "http://hooks/", "hooks/8", "fe80::1%eth0", "[hooks]", "a b", "256.1.1.1", "1:2", ":80"],
)  # fmt: skip
def test_an_entry_that_is_none_ends_the_start(entry: str) -> None:
    with pytest.raises(StartupError, match="outbound_allow"):
        Guard([entry])


@pytest.mark.parametrize("entry", ["127.0.0.0/8", "127.0.0.1:80", "::1", "localhost", "localhost:80"])
def test_localhost_is_allowed_by_its_name_and_by_its_networks(entry: str) -> None:
    assert Guard([entry]).target("http://localhost/").host == "localhost"


@pytest.mark.parametrize("entry", ["localhost:81", "10.0.0.0/8", "127.0.0.1:81", "a.localhost"])
def test_localhost_is_not_allowed_by_another_entry(entry: str) -> None:
    with pytest.raises(BadRequest):
        Guard([entry]).target("http://localhost/")

"""Where images may be fetched from: hosts by a list, addresses by what they are, and no trick of spelling."""

from ipaddress import ip_address

import pytest

from lookonce_server.images.fetch.addresses import may_connect, parse_network
from lookonce_server.images.fetch.hosts import AllowedHost, normalize_host
from lookonce_server.images.fetch.remote import FetchPolicy, NotAllowedError


def policy(*hosts: str, **options) -> FetchPolicy:
    return FetchPolicy(tuple(AllowedHost.parse(host) for host in hosts), **options)


LIST = policy("example.com", "*.cdn.example.com", "example.org:8443", "b\u00fccher.example", "93.184.216.34")


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://example.com/a.png?b=c#d", "example.com"),
        ("HTTPS://EXAMPLE.COM:443/", "example.com"),
        ("https://example.com./", "example.com"),
        ("https://example.com", "example.com"),
        ("https://a.cdn.example.com/", "a.cdn.example.com"),
        ("https://a.b.cdn.example.com/", "a.b.cdn.example.com"),
        ("https://example.org:8443/", "example.org:8443"),
        ("https://b\u00fccher.example/\u00fc", "xn--bcher-kva.example"),
        ("https://XN--BCHER-KVA.example/", "xn--bcher-kva.example"),
        ("https://example\u3002com/", "example.com"),
        ("https://93.184.216.34/", "93.184.216.34"),
    ],
)
def test_what_is_on_the_list_is_allowed_in_its_one_spelling(url, authority):
    assert LIST.target(url).authority == authority


@pytest.mark.parametrize(
    "url",
    [
        # not on the list, though it looks so
        "https://example.net/",
        "https://cdn.example.com/",
        "https://evilcdn.example.com/",
        "https://www.example.com/",
        "https://evilexample.com/",
        "https://example.com.evil.net/",
        "https://example.com-evil.net/",
        "https://a.cdn.example.com.evil.net/",
        "https://.cdn.example.com/",
        "https://..cdn.example.com/",
        "https://*.cdn.example.com/",
        "https://example.com../",
        "https://example.com;evil.net/",
        "https://example.com,evil.net/",
        "https://example%2ecom/",
        "https://ex%61mple.com/",
        "https://example.com%00.evil.net/",
        "https://ex\uff41mple.com/",
        "https://\u0435xample.com/",
        # ports
        "https://example.com:8443/",
        "https://example.com:80/",
        "https://example.com:0/",
        "https://example.com:-443/",
        "https://example.com:443443/",
        "https://example.com:22/",
        "https://example.org/",
        "https://example.com:443:22/",
        # who is asked: user names and their kin
        "https://example.com@evil.net/",
        "https://user:password@example.com/",
        "https://user@example.com/",
        "https://@evil.net/",
        "https://evil.net#@example.com/",
        "https://evil.net?@example.com/",
        "https://evil.net/@example.com",
        "https://evil.net\\@example.com/",
        "https://example.com\\@evil.net/",
        "https://example.com\\.evil.net/",
        "https:\\\\example.com/",
        "https://exa\tmple.com/",
        "https://example.com/\n",
        "https://exam\r\nple.com/",
        " https://example.com/",
        "https://example.com /",
        "https://example.com/\u00a0",
        "https://example.com/a b",
        # schemes
        "http://example.com/",
        "file:///etc/passwd",
        "file://example.com/etc/passwd",
        "gopher://example.com/",
        "ftp://example.com/",
        "ws://example.com/",
        "httpss://example.com/",
        "https:example.com/",
        "https:/example.com/",
        "https:///example.com/",
        "//example.com/",
        "/a.png",
        "example.com",
        "javascript:alert(1)",
        "data\u003aimage/png,x",
        "",
        "https://",
        "https://" + "a" * 70_000,
        # addresses in odd spellings
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.0.1/",
        "https://127.0.0.1./",
        "https://127\u30020\u30020\u30021/",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://0/",
        "https://1572395042/",
        "https://93.184.216.34.evil.net/",
        "https://93.184.0216.34/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::ffff:93.184.216.34]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[fe80::1%25lo]/",
        "https://[fe80::1%lo]/",
        "https://[example.com]/",
        "https://[::1]example.com/",
        "https://localhost/",
        "https://169.254.169.254/latest/meta-data/",
    ],
)
def test_what_is_not_on_the_list_is_refused_however_it_is_spelled(url):
    with pytest.raises(NotAllowedError):
        LIST.target(url)


def test_http_is_an_option():
    allowed = policy("example.com", "example.org:8080", plain_http=True)
    assert allowed.target("http://example.com/a").url() == "http://example.com/a"
    assert allowed.target("http://example.org:8080/").port == 8080
    assert allowed.target("https://example.com/").port == 443
    for url in ("http://example.com:443/", "https://example.com:80/", "ftp://example.com/"):
        with pytest.raises(NotAllowedError):
            allowed.target(url)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("b.png", "https://example.com/a/b.png"),
        ("/b.png?c", "https://example.com/b.png?c"),
        ("//example.com/b", "https://example.com/b"),
        ("?c", "https://example.com/a/a.png?c"),
        ("///evil.net/b", "https://example.com/evil.net/b"),
        ("https://x.cdn.example.com/b", "https://x.cdn.example.com/b"),
    ],
)
def test_redirects_lead_on(location, url):
    assert LIST.redirect(LIST.target("https://example.com/a/a.png"), location).url() == url


@pytest.mark.parametrize(
    "location",
    [
        "http://example.com/",
        "https://evil.net/",
        "//evil.net/",
        "\\\\evil.net/",
        "/\\evil.net",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "data:image/png;base64,AAAA",
        "https://127.0.0.1/",
        "https://example.com:22/",
        "https://a:b@example.com/",
        "https://example.com@evil.net/",
        "https://[::1",
        "https://example.com/\x00",
    ],
)
def test_redirects_lead_nowhere_that_a_url_may_not(location):
    with pytest.raises(NotAllowedError):
        LIST.redirect(LIST.target("https://example.com/a/a.png"), location)


def test_a_redirect_never_leaves_https():
    allowed = policy("example.com", plain_http=True)
    assert allowed.redirect(allowed.target("http://example.com/"), "https://example.com/").scheme == "https"
    with pytest.raises(NotAllowedError, match="leaves https"):
        allowed.redirect(allowed.target("https://example.com/"), "http://example.com/")


@pytest.mark.parametrize(
    "text",
    [
        *("", "*", "*.", "*.*", "a.*", ".example.com", "https://example.com", "example.com/a", "example.com:", "a b"),
        *("example.com:0", "example.com:65536", "example.com:x", "user@example.com", "2130706433", "0x7f.1", "127.1"),
        *("*.127.0.0.1", "[fe80::1%lo]", "*.[::1]", "a..b", "a" * 64, "*example.com", "example.com,example.org"),
    ],
)
def test_an_entry_that_is_no_host(text):
    with pytest.raises(ValueError, match="is no host; expected such as"):
        AllowedHost.parse(text)


def test_hosts_have_one_spelling():
    assert normalize_host("EXAMPLE.com.") == "example.com"
    assert normalize_host("b\u00dcCHER.example") == "xn--bcher-kva.example"
    assert normalize_host("[2001:DB8::0:1]") == normalize_host("2001:db8::1") == "2001:db8::1"
    assert AllowedHost.parse("[2001:db8::1]:8443") == AllowedHost("2001:db8::1", False, 8443)


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "2a00:1450:4001::1"])
def test_public_addresses(address):
    assert may_connect(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255"),
        *("192.168.1.1", "169.254.169.254", "169.254.0.1", "100.64.0.1", "100.127.255.255", "100.100.100.200"),
        *("192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1"),
        *("203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
        *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:808:808::"),
        *("2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:20::1", "2001:db8::1", "3fff::1", "100::1"),
        *("fc00::1", "fd00:ec2::254", "fd12:3456::1", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1", "5f00::1"),
        *("1::1", "4000::1", "e000::1"),
    ],
)
def test_addresses_that_are_not_public(address):
    assert not may_connect(ip_address(address))


def test_an_opened_network_is_allowed_and_nothing_beside_it():
    opened = (parse_network("10.1.2.0/24"), parse_network("fd12::/16"))
    assert may_connect(ip_address("10.1.2.3"), opened)
    assert may_connect(ip_address("fd12::3"), opened)
    assert may_connect(ip_address("8.8.8.8"), opened)
    for address in ("10.1.3.3", "127.0.0.1", "fd13::3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "2002:a01:203::"):
        assert not may_connect(ip_address(address), opened)


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("169.254.0.0/16", "169.254.169.254"),
        ("0.0.0.0/0", "169.254.169.254"),
        ("100.64.0.0/10", "100.100.100.200"),
        ("fd00::/8", "fd00:ec2::254"),
        ("fe80::/10", "fe80::1"),
        ("168.63.129.16/32", "168.63.129.16"),
    ],
)
def test_what_a_cloud_tells_its_machines_is_never_fetched(network, address):
    assert not may_connect(ip_address(address), (parse_network(network),))


@pytest.mark.parametrize("text", ["::ffff:127.0.0.0/104", "64:ff9b::/96", "2002::/16", "::/0", "::/96", "2001::/32"])
def test_ipv4_in_disguise_cannot_be_opened(text):
    with pytest.raises(ValueError, match="give the IPv4 network itself"):
        parse_network(text)


@pytest.mark.parametrize("text", ["10.1.2.3/24", "10.1.2", "example.com", "", "10.0.0.0/33"])
def test_what_is_no_network(text):
    with pytest.raises(ValueError, match=text or "does not appear"):
        parse_network(text)

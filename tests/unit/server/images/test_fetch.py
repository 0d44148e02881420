"""Fetching images: from the checked address and no other, within limits of size and time, telling nobody too much."""

import asyncio
import gzip
import logging
import ssl
import subprocess
from ipaddress import ip_address

import pytest
from PIL import Image

from lookonce_server.errors import InvalidImageError, OverloadedError
from lookonce_server.images.decode import ImageLimits
from lookonce_server.images.fetch.addresses import may_connect, parse_network
from lookonce_server.images.fetch.client import Fetcher
from lookonce_server.images.fetch.hosts import AllowedHost
from lookonce_server.images.fetch.remote import FetchPolicy
from lookonce_server.images.fetch.resolver import SystemResolver
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ImageBytes, Media
from lookonce_server.metrics import Metrics

from ....support.image_files import RED, encoded
from ....support.web_server import Web, redirect, response, serving

pytestmark = pytest.mark.anyio
PARAM = "messages[0].content[1].image_url.url"
PICTURE = encoded(Image.new("RGB", (8, 8), RED), "PNG")
NAME = "pictures.example"
HERE = (parse_network("127.0.0.0/8"),)  # the operator's own word that this machine may be fetched from
LIMIT = 10_000
MEDIA = Media("image", LIMIT)


class Resolver:
    """Names and their addresses; several answers are given one after the other, the last one again and again."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str):
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [ip_address(one) for one in answer]


@pytest.fixture
async def web():
    async with serving() as running:
        yield running


def fetcher(web: Web, resolve: Resolver | None = None, **options) -> Fetcher:
    """One that may fetch from the test's server by http:, by its address or by names that `resolve` knows."""
    more = {name: options.pop(name) for name in ("tls", "metrics") if name in options}
    hosts = options.pop("hosts", ("127.0.0.1", NAME, f"*.{NAME}"))
    policy = {"networks": HERE, "plain_http": True, "timeout": 20.0} | options
    allowed = tuple(AllowedHost.parse(f"{host}:{web.port}") for host in hosts)
    return Fetcher(FetchPolicy(allowed, **policy), resolve=resolve, **more)


def url(web: Web, path: str = "/a.png", host: str = "127.0.0.1", scheme: str = "http") -> str:
    return f"{scheme}://{host}:{web.port}{path}"


async def failure(fetching: Fetcher, address: str, code: str = "image_fetch_failed") -> str:
    """What the client is told."""
    with pytest.raises(InvalidImageError) as caught:
        await fetching.fetch(address, MEDIA, PARAM)
    assert (caught.value.param, caught.value.code) == (PARAM, code)
    return str(caught.value)


# --- what is asked, and what is taken ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["image/png", "image/anything", "IMAGE/PNG; x=y", "application/octet-stream"])
async def test_an_image_is_fetched(web, kind):
    web.answers["/a.png?size=1"] = response(PICTURE, kind=kind)
    assert await fetcher(web).fetch(url(web, "/a.png?size=1#part"), MEDIA, PARAM) == PICTURE


async def test_a_video_is_fetched_as_such(web):
    video = Media("video", 2 * LIMIT)
    for kind in ("video/mp4", "image/gif", "image/webp", "application/octet-stream"):
        web.answers["/a.mp4"] = response(bytes(LIMIT + 1), kind=kind)
        assert await fetcher(web).fetch(url(web, "/a.mp4"), video, PARAM) == bytes(LIMIT + 1)
    web.answers["/a.mp4"] = response(PICTURE, kind="image/png")
    with pytest.raises(InvalidImageError, match=r"The video could not be fetched .* no video by its content-type"):
        await fetcher(web).fetch(url(web, "/a.mp4"), video, PARAM)
    web.answers["/a.mp4"] = response(PICTURE, kind="video/mp4")
    assert "no image by its content-type" in await failure(fetcher(web), url(web, "/a.mp4"))


async def test_a_request_says_no_more_than_it_must(web, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    web.answers["/a.png"] = response(b"", "set-cookie: a=b", "location: /b.png", status="302 Found")
    web.answers["/b.png"] = response(PICTURE)
    fetching = fetcher(web)
    for _ in range(2):
        await fetching.fetch(url(web), MEDIA, PARAM)
    assert [head.split(b" ")[1] for head in web.asked] == [b"/a.png", b"/b.png"] * 2
    for head in web.asked:
        first, *headers = head.decode().strip().split("\r\n")
        assert first.startswith("GET ")
        assert dict(header.lower().split(": ") for header in headers) == {
            "host": f"127.0.0.1:{web.port}",
            "accept": "image/*",
            "accept-encoding": "identity",
            "user-agent": "lookonce",
            "connection": "close",
        }
    assert web.connections == 4


async def test_the_host_header_is_the_name_and_not_the_address(web):
    web.answers["/a.png"] = response(PICTURE)
    await fetcher(web, Resolver(["127.0.0.1"])).fetch(url(web, host="PICTURES.example."), MEDIA, PARAM)
    assert f"host: {NAME}:{web.port}".encode() in web.asked[0].lower()


async def test_the_same_picture_by_url_and_in_the_request_is_the_same_bytes(web):
    web.answers["/a.png"] = response(PICTURE)
    images = Images(ImageLimits(max_bytes=LIMIT), fetcher=fetcher(web))
    assert await images.read(url(web), PARAM) == ImageBytes(PICTURE, PARAM)


async def test_what_is_not_allowed_is_told_with_what_is(web):
    told = await failure(fetcher(web), "https://evil.example/a.png", "image_url_not_allowed")
    assert told.startswith("'https://evil.example/a.png' cannot be fetched: its host or port is not one of those")
    assert "https: and http: URLs of the hosts that this server's operator allows" in told
    assert NAME not in told
    told = await failure(fetcher(web, plain_http=False), url(web), "image_url_not_allowed")
    assert "its scheme is not accepted" in told
    assert "and https: URLs of" in told
    assert web.connections == 0


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["2002:7f00:1::"],
        ["93.184.216.34", "127.0.0.1"],
        ["127.0.0.1", "93.184.216.34"],
        ["93.184.216.34", "fd00:ec2::254"],
    ],
)
async def test_a_name_that_leads_into_the_network_is_not_followed(web, addresses):
    web.answers["/a.png"] = response(PICTURE)
    resolve = Resolver(addresses)
    told = await failure(fetcher(web, resolve, networks=()), url(web, host=NAME))
    assert told == f"The image could not be fetched from '{NAME}:{web.port}'."
    assert resolve.asked == [NAME]
    assert web.connections == 0


async def test_an_address_in_the_list_is_not_enough_for_a_private_one(web):
    web.answers["/a.png"] = response(PICTURE)
    await failure(fetcher(web, networks=()), url(web))
    assert web.connections == 0


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "0", "localhost"])
async def test_what_the_system_understands_of_odd_spellings_is_no_public_address(host):
    """The list stops these spellings; should one get past it, its address does not."""
    addresses = await SystemResolver(1)(host)
    assert addresses
    assert not any(may_connect(address) for address in addresses)


async def test_this_machine_is_not_fetched_from_though_the_list_has_its_name(web):
    web.answers["/a.png"] = response(PICTURE)
    told = await failure(fetcher(web, hosts=("localhost",), networks=()), url(web, host="localhost"))
    assert told == f"The image could not be fetched from 'localhost:{web.port}'."
    assert web.connections == 0


async def test_the_connection_is_made_to_the_address_that_was_checked(web):
    """A name that leads to the allowed address when it is checked, and elsewhere from then on."""
    async with serving("127.0.0.2") as elsewhere:
        elsewhere.port = web.port
        web.answers["/a.png"] = response(PICTURE)
        resolve = Resolver(["127.0.0.1"], ["127.0.0.2"])
        allowed = (parse_network("127.0.0.1/32"),)
        fetching = fetcher(web, resolve, networks=allowed)
        assert await fetching.fetch(url(web, host=NAME), MEDIA, PARAM) == PICTURE
        assert resolve.asked == [NAME]  # once
        await failure(fetching, url(web, host=NAME))  # asked again, it is another one, and checked again
        assert (web.connections, elsewhere.connections) == (1, 0)


async def test_a_redirect_is_resolved_and_checked_again(web):
    """The same name, for the second request at an address that is not allowed."""
    web.answers |= {"/a.png": redirect("/b.png"), "/b.png": response(PICTURE)}
    resolve = Resolver(["127.0.0.1"], ["169.254.169.254"])
    await failure(fetcher(web, resolve), url(web, host=NAME))
    assert resolve.asked == [NAME, NAME]
    assert web.connections == 1


async def test_the_next_address_is_tried_where_one_does_not_answer(web):
    web.answers["/a.png"] = response(PICTURE)
    resolve = Resolver(["127.0.0.77", "127.0.0.1"])  # nobody listens at the first
    assert await fetcher(web, resolve).fetch(url(web, host=NAME), MEDIA, PARAM) == PICTURE


async def test_refused_unknown_and_unreachable_hosts_look_alike(web):
    async def unknown(host: str):
        raise OSError("Name or service not known")

    gone = url(web, host=NAME)
    told = {
        await failure(fetcher(web, Resolver(["10.1.2.3"])), gone),
        await failure(fetcher(web, Resolver(["127.0.0.77"])), gone),
        await failure(fetcher(web, Resolver([])), gone),
        await failure(fetcher(web, unknown), gone),
    }
    assert told == {f"The image could not be fetched from '{NAME}:{web.port}'."}


async def test_the_log_says_why_and_not_what_was_asked_for(web, caplog):
    with caplog.at_level(logging.DEBUG, "lookonce_server"):
        await failure(fetcher(web, Resolver(["10.1.2.3"])), url(web, "/path?token=secret", host=NAME))
    assert "10.1.2.3" in caplog.text
    assert NAME in caplog.text
    assert "secret" not in caplog.text
    assert "/path" not in caplog.text


# --- redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x"])
async def test_redirects_are_followed(web, status):
    web.answers |= {"/a.png": redirect("b.png", status), "/b.png": response(PICTURE)}
    assert await fetcher(web).fetch(url(web), MEDIA, PARAM) == PICTURE


async def test_three_redirects_and_no_more(web):
    web.answers |= {f"/{i}": redirect(f"/{i + 1}") for i in range(4)} | {"/4": response(PICTURE)}
    assert await fetcher(web).fetch(url(web, "/1"), MEDIA, PARAM) == PICTURE
    await failure(fetcher(web), url(web, "/0"))
    web.answers["/loop"] = redirect("/loop")
    before = web.connections
    await failure(fetcher(web), url(web, "/loop"))
    assert web.connections - before == 4


@pytest.mark.parametrize(
    "location",
    [
        "http://localhost:{port}/b.png",
        "http://[::1]:{port}/b.png",
        "http://2130706433:{port}/b.png",
        "http://127.0.0.2:{port}/b.png",
        "http://user@127.0.0.1:{port}/b.png",
        "http://127.0.0.1:22/",
        "http://127.0.0.1/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:{port}/b.png",
        "data:image/png;base64,AAAA",
        "//evil.example/",
    ],
)
async def test_redirects_out_of_the_list(web, location):
    web.answers |= {"/a.png": redirect(location.format(port=web.port)), "/b.png": response(PICTURE)}
    told = await failure(fetcher(web), url(web))
    assert told == f"The image could not be fetched from '127.0.0.1:{web.port}'."
    assert web.connections == 1


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (response(b"gone", status="404 Not Found"), "it answered 404"),
        (response(PICTURE, status="206 Partial Content"), "it answered 206"),
        (response(status="304 Not Modified", kind=None), "it answered 304"),
        (response(status="302 Found"), "it answered 302"),
        (response(b"<html>", kind="text/html"), "it is no image by its content-type"),
        (response(b"{}", kind="application/json"), "it is no image by its content-type"),
        (response(PICTURE, kind=None), "it is no image by its content-type"),
        (response(b""), "it is empty"),
        (response(bytes(LIMIT + 1)), f"it is larger than the limit of {LIMIT} bytes"),
        (response(b"x", "content-length: 99999999999999999999"), "it is larger than the limit"),
        (response(gzip.compress(bytes(100)), "content-encoding: gzip"), "its content is compressed"),
        (response(PICTURE, "content-encoding: br"), "its content is compressed"),
    ],
)
async def test_answers_that_are_no_image(web, answer, told):
    web.answers["/a.png"] = answer
    said = await failure(fetcher(web), url(web))
    assert said.startswith(f"The image could not be fetched from '127.0.0.1:{web.port}': {told}")


@pytest.mark.parametrize(
    "answer",
    [
        response(PICTURE, f"content-length: {len(PICTURE) + 1}"),
        response(PICTURE, "content-length: -1"),
        response(PICTURE, "content-length: 1", "content-length: 2"),
        response(b"5\r\nab", "transfer-encoding: chunked"),
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 1_000_000 + b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
    ],
)
async def test_answers_that_are_no_http(web, answer):
    web.answers["/a.png"] = answer
    assert await failure(fetcher(web), url(web)) == f"The image could not be fetched from '127.0.0.1:{web.port}'."


async def test_bytes_behind_the_stated_length_are_not_read(web):
    web.answers["/a.png"] = response(PICTURE + b"more", f"content-length: {len(PICTURE)}")
    assert await fetcher(web).fetch(url(web), MEDIA, PARAM) == PICTURE


async def test_a_gzip_bomb_is_never_unpacked(web):
    web.answers["/a.png"] = response(gzip.compress(bytes(50_000_000))[:LIMIT], "content-encoding: GZIP")
    assert "is compressed" in await failure(fetcher(web), url(web))


@pytest.mark.parametrize("header", ["", "transfer-encoding: chunked", "content-length: 9000"])
async def test_an_endless_body_is_cut_off_at_the_limit(web, header):
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n" + (header.encode() + b"\r\n" if header else b"") + b"\r\n"
        )
        while True:
            writer.write(b"1000\r\n" + bytes(4096) + b"\r\n")
            await writer.drain()
            sent += 4096

    web.answers["/a.png"] = endless
    if "length" in header:
        assert len(await fetcher(web).fetch(url(web), MEDIA, PARAM)) == 9000  # what follows is not read
    else:
        assert "larger than the limit" in await failure(fetcher(web), url(web))
    assert sent < 20_000_000  # what the sockets hold


@pytest.mark.parametrize(
    "begin", [b"", b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n", response(b"", "content-length: 9")]
)
async def test_a_slow_drip_is_ended_by_the_time_for_all_of_it(web, begin):
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        while True:
            writer.write(b"x" if begin.endswith(b"\r\n\r\n") else b"x: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.5)

    web.answers["/a.png"] = drip
    await failure(fetcher(web, timeout=1.0), url(web))


async def test_only_so_many_at_once(web):
    going_on = asyncio.Event()
    at_once: list[int] = [0]  # after each request's beginning and end

    async def later(writer: asyncio.StreamWriter) -> None:
        at_once.append(at_once[-1] + 1)
        await going_on.wait()
        at_once.append(at_once[-1] - 1)
        writer.write(response(PICTURE))

    web.answers["/a.png"] = later
    fetching = fetcher(web, at_once=2)
    running = [asyncio.ensure_future(fetching.fetch(url(web), MEDIA, PARAM)) for _ in range(5)]
    while web.connections < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    going_on.set()
    assert await asyncio.gather(*running) == [PICTURE] * 5
    assert max(at_once) == 2


async def test_who_waits_too_long_for_a_place_is_told_to_come_again(web):
    async def never(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    web.answers["/a.png"] = never
    fetching = fetcher(web, at_once=1, timeout=1.0)
    outcomes = await asyncio.gather(*(fetching.fetch(url(web), MEDIA, PARAM) for _ in range(3)), return_exceptions=True)
    assert {type(one) for one in outcomes} == {InvalidImageError, OverloadedError}


async def test_outcomes_are_counted(web):
    metrics = Metrics()
    fetching = fetcher(web, metrics=metrics)
    web.answers |= {"/a.png": response(PICTURE), "/b.png": response(status="500 x")}
    await fetching.fetch(url(web), MEDIA, PARAM)
    await failure(fetching, url(web, "/b.png"))
    await failure(fetching, "https://evil.example/", "image_url_not_allowed")
    found = metrics.registry.get_sample_value
    outcomes = ("fetched", "failed", "not_allowed")
    assert [found("lookonce_image_fetches_total", {"outcome": one}) for one in outcomes] == [1, 1, 1]


# --- TLS --------------------------------------------------------------------------------------------------------------


def tls_of(folder, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's side with a certificate of that name, and a client's that trusts it."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    out = ["-addext", f"subjectAltName=DNS:{name}", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run([*command.split(), *out], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=certificate)


async def test_the_certificate_is_of_the_name_though_the_connection_goes_to_the_address(tmp_path):
    server, client = tls_of(tmp_path, NAME)
    async with serving(tls=server) as web:
        web.answers["/a.png"] = response(PICTURE)
        fetching = fetcher(web, Resolver(["127.0.0.1"]), tls=client, plain_http=False)
        assert await fetching.fetch(url(web, host=NAME, scheme="https"), MEDIA, PARAM) == PICTURE
        assert web.names == [NAME]
        await failure(fetching, url(web, host=f"other.{NAME}", scheme="https"))  # a name that the certificate has not
        assert len(web.asked) == 1


async def test_a_certificate_that_nobody_vouches_for(tmp_path):
    server, _ = tls_of(tmp_path, NAME)
    async with serving(tls=server) as web:
        await failure(fetcher(web, Resolver(["127.0.0.1"])), url(web, host=NAME, scheme="https"))
        assert web.asked == []


async def test_a_redirect_from_https_to_http(web, tmp_path):
    server, client = tls_of(tmp_path, NAME)
    async with serving(tls=server) as secure:
        hosts = tuple(AllowedHost.parse(f"{NAME}:{one.port}") for one in (web, secure))
        policy = FetchPolicy(hosts, networks=HERE, plain_http=True)
        secure.answers["/a.png"] = redirect(url(web, host=NAME))
        web.answers["/a.png"] = response(PICTURE)
        fetching = Fetcher(policy, resolve=Resolver(["127.0.0.1"]), tls=client)
        await failure(fetching, url(secure, host=NAME, scheme="https"))
        assert web.connections == 0
        assert await fetching.fetch(url(web, host=NAME), MEDIA, PARAM) == PICTURE

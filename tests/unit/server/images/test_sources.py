"""From what a request calls an image to its bytes."""

import base64

import pytest

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import ImageLimits
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ContextReference, read_data_url

LIMITS = ImageLimits(max_bytes=10_000, max_pixels=100 * 100)
PARAM = "messages[0].content[1].image_url.url"


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def refused(function, value, match: str, limits: ImageLimits = LIMITS) -> None:
    with pytest.raises(InvalidImageError, match=match) as caught:
        function(value, limits, PARAM)
    assert caught.value.param == PARAM
    assert caught.value.code == "invalid_image"


# --- data URLs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "application/octet-stream", "image/png;charset=x", ""])
def test_a_data_url_gives_its_bytes_whatever_type_it_claims(kind):
    assert read_data_url(data_url(b"\x00\xff pixels", kind), LIMITS, PARAM) == b"\x00\xff pixels"


def test_case_and_line_breaks_do_not_matter():
    url = data_url(b"some pixels").replace("data:", "DATA:").replace("base64,", "BASE64,\n ")
    assert read_data_url(url[:-4] + "\r\n" + url[-4:], LIMITS, PARAM) == b"some pixels"


@pytest.mark.parametrize(
    "url", ["http://example.com/a.png", "https://example.com/a.png", "file:///etc/passwd", "ftp://x", "/a.png", ""]
)
def test_nothing_is_fetched(url):
    refused(read_data_url, url, "does not load remote images")


def test_a_long_url_is_shown_in_part():
    with pytest.raises(InvalidImageError) as caught:
        read_data_url("http://example.com/" + "x" * 10_000, LIMITS, PARAM)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("url", ["data:image/png,abc", "data:image/png;base64", "data:;hex,00"])
def test_a_data_url_that_is_not_base64(url):
    refused(read_data_url, url, "not a base64 data: URL")


@pytest.mark.parametrize("payload", ["abc", "ab=c", "a*cd", "====", "ab\u00e9d", "\u6f22\u5b57\u6f22\u5b57"])
def test_damaged_base64(payload):
    refused(read_data_url, f"data:image/png;base64,{payload}", "base64 is damaged")


@pytest.mark.parametrize("payload", ["", " \n"])
def test_an_empty_image(payload):
    refused(read_data_url, f"data:image/png;base64,{payload}", "empty")


def test_the_limit_of_bytes_is_held():
    assert len(read_data_url(data_url(b"x" * LIMITS.max_bytes), LIMITS, PARAM)) == LIMITS.max_bytes
    refused(read_data_url, data_url(b"x" * (LIMITS.max_bytes + 1)), "limit of 10000 bytes")
    refused(read_data_url, data_url(b"x" * (LIMITS.max_bytes + 3)), "limit of 10000 bytes")


# --- references, and the choice between them --------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_context_is_named_by_its_id():
    assert await Images(LIMITS).read("lookonce:" + "0a" * 32, PARAM) == ContextReference("0a" * 32)


@pytest.mark.anyio
@pytest.mark.parametrize("context_id", ["", "0a", "0A" * 32, "0a" * 33, "0a" * 32 + "\n"])
async def test_what_is_no_context_id(context_id):
    with pytest.raises(InvalidImageError, match="is no context id; one has 64 hex digits"):
        await Images(LIMITS).read(f"lookonce:{context_id}", PARAM)


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["https://example.com/a.png", "HTTP://127.0.0.1/", "file:///etc/passwd", " data:,", ""])
async def test_without_a_list_of_hosts_nothing_is_fetched(url):
    with pytest.raises(InvalidImageError, match="does not load remote images") as caught:
        await Images(LIMITS).read(url, PARAM)
    assert (caught.value.param, caught.value.code) == (PARAM, "invalid_image")

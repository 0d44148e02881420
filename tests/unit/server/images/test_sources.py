"""From what a request calls an image to its bytes."""

import base64

import pytest

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import FrameSampling, ImageLimits, join_pictures
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ContextReference, ImageBytes, Media, read_data_url

LIMITS = ImageLimits(max_bytes=10_000, max_pixels=100 * 100)
MEDIA = Media("image", LIMITS.max_bytes)
VIDEO = Media("video", 10_000)
PARAM = "messages[0].content[1].image_url.url"


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def refused(function, value, match: str, media: Media = MEDIA) -> None:
    with pytest.raises(InvalidImageError, match=match) as caught:
        function(value, media, PARAM)
    assert caught.value.param == PARAM
    assert caught.value.code == "invalid_image"


# --- data URLs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "application/octet-stream", "image/png;charset=x", ""])
def test_a_data_url_gives_its_bytes_whatever_type_it_claims(kind):
    assert read_data_url(data_url(b"\x00\xff pixels", kind), MEDIA, PARAM) == b"\x00\xff pixels"


def test_case_and_line_breaks_do_not_matter():
    url = data_url(b"some pixels").replace("data:", "DATA:").replace("base64,", "BASE64,\n ")
    assert read_data_url(url[:-4] + "\r\n" + url[-4:], MEDIA, PARAM) == b"some pixels"


@pytest.mark.parametrize(
    "url", ["http://example.com/a.png", "https://example.com/a.png", "file:///etc/passwd", "ftp://x", "/a.png", ""]
)
def test_nothing_is_fetched(url):
    refused(read_data_url, url, "does not load remote images")


def test_a_long_url_is_shown_in_part():
    with pytest.raises(InvalidImageError) as caught:
        read_data_url("http://example.com/" + "x" * 10_000, MEDIA, PARAM)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("url", ["data:image/png,abc", "data:image/png;base64", "data:;hex,00"])
def test_a_data_url_that_is_not_base64(url):
    refused(read_data_url, url, "not a base64 data: URL")


@pytest.mark.parametrize(
    "payload", ["a", "abcde", "ab=", "ab=c", "a*cd", "+-cd", "====", "ab\u00e9d", "\u6f22\u5b57\u6f22\u5b57"]
)
def test_damaged_base64(payload):
    refused(read_data_url, f"data:image/png;base64,{payload}", "base64 is damaged")


def test_base64_may_be_without_its_padding_and_in_the_url_safe_alphabet():
    for length in range(1, 8):
        data = (b"\xfb\xff" * 4)[:length]
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            padded = encode(data).decode()
            for payload in (padded, padded.rstrip("="), padded.rstrip("=") + "\n"):
                assert read_data_url(f"data:image/png;base64,{payload}", MEDIA, PARAM) == data


@pytest.mark.parametrize("payload", ["", " \n"])
def test_an_empty_image(payload):
    refused(read_data_url, f"data:image/png;base64,{payload}", "empty")


def test_the_limit_of_bytes_is_held():
    assert len(read_data_url(data_url(b"x" * LIMITS.max_bytes), MEDIA, PARAM)) == LIMITS.max_bytes
    refused(read_data_url, data_url(b"x" * (LIMITS.max_bytes + 1)), "limit of 10000 bytes")
    refused(read_data_url, data_url(b"x" * (LIMITS.max_bytes + 3)), "limit of 10000 bytes")


# --- videos -----------------------------------------------------------------------------------------------------------


def test_a_video_is_one_file_or_a_list_of_pictures():
    assert read_data_url(data_url(b"a film", "video/mp4"), VIDEO, PARAM) == b"a film"
    pieces = [base64.b64encode(piece).decode() for piece in (b"one", b"two")]
    url = "data:video/jpeg;base64," + ",".join(pieces)
    assert read_data_url(url, VIDEO, PARAM) == join_pictures([b"one", b"two"])
    assert read_data_url("data:video/jpeg;base64," + pieces[0], VIDEO, PARAM) == join_pictures([b"one"])
    refused(read_data_url, url, "base64 is damaged")  # no image
    refused(read_data_url, url.replace("jpeg", "mp4"), "base64 is damaged", VIDEO)
    refused(read_data_url, "http://example.com/a.mp4", "does not load remote videos.*'data:video/mp4;base64", VIDEO)
    refused(read_data_url, data_url(b"x" * 10_001), "The video is larger than the limit of 10000 bytes", VIDEO)
    refused(read_data_url, "data:video/jpeg;base64," + ",".join(pieces * 1000), "video is larger than the limit", VIDEO)


def test_a_video_has_another_content_than_its_bytes_and_by_each_choice_of_frames():
    data = b"GIF89a, moving or not"
    samplings = [None, *(FrameSampling(fps, most) for fps in (1.0, 2.0) for most in (8, 9))]
    contents = [ImageBytes(data, PARAM, sampling).content for sampling in samplings]
    assert contents[0] == data
    assert len(set(contents)) == len(samplings)
    assert (
        ImageBytes(data, "elsewhere", FrameSampling(1, 8)).content
        == ImageBytes(data, PARAM, FrameSampling(1.0, 8)).content
    )


@pytest.mark.parametrize("sampling", [None, FrameSampling(0.3, 7)])
def test_what_is_kept_is_the_same_again(sampling):
    image = ImageBytes(b"some bytes", PARAM, sampling)
    assert ImageBytes.decode(image.encode(), PARAM) == image


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

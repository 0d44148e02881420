"""What a caller may call an image."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookonce import ImageSourceError
from lookonce._reference import data_url, read_image


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBP", "image/webp"),
        (b"BM", "image/bmp"),
        (b"II*\x00", "image/tiff"),
        (b"?", "application/octet-stream"),
    ],
)
def test_the_type_is_read_from_the_bytes(start, kind):
    assert data_url(start).startswith(f"data:{kind};base64,")


@given(st.binary(min_size=1))
def test_the_bytes_arrive_unchanged(image):
    assert base64.b64decode(data_url(image).partition(",")[2]) == image


def test_a_path_may_be_text_or_a_path(tmp_path, png):
    path = tmp_path / "a.png"
    path.write_bytes(png)
    assert read_image(path) == read_image(str(path)) == read_image(png)


@pytest.mark.parametrize("url", ["data:image/png;base64,AAAA", "https://example.org/a.png"])
def test_a_url_is_passed_on(url):
    assert read_image(url).pixels == url


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/file.png", "cannot read the image 'no/such/file.png': No such file"),
        ("lookonce:abc", "not a context id: 'lookonce:abc'"),
        ("lookonce:../../models", "not a context id"),
        (b"", "the image is empty"),
    ],
)
def test_what_is_no_image_is_named(source, message):
    with pytest.raises(ImageSourceError, match=message):
        read_image(source)

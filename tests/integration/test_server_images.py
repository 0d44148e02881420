"""Images as a real server takes them: of every format, by remote URLs, slow ones, and ones that are none."""

import base64
import http.server
import io
import ssl
import threading
from collections.abc import Iterator

import pytest
from PIL import Image

from ..support.http_requests import ask
from ..support.network import make_certificate
from ..support.pictures import png, questions
from ..support.server_process import LookonceServer

LIMIT_SECONDS = 3
FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]


class _Web(http.server.BaseHTTPRequestHandler):
    """A picture at /picture.png, and ways to somewhere else."""

    def do_GET(self) -> None:
        if self.path == "/picture.png":
            self.send_response(200)
            self.send_header("content-type", "image/png")
            self.end_headers()
            self.wfile.write(png(1))
        elif self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("location", self.path.removeprefix("/to/"))
            self.end_headers()
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[int]:
    """A web server's port on this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Web) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(web) -> Iterator[LookonceServer]:
    """One that may fetch from that web server."""
    hosts = ["--image-hosts", f"127.0.0.1:{web},pictures.invalid", "--image-http", "--image-networks", "127.0.0.0/8"]
    with LookonceServer(*hosts, "--image-decode-timeout", str(LIMIT_SECONDS), "--on-miss", "compress") as running:
        yield running


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def error_of(server: LookonceServer, url: str) -> dict:
    response = server.post("/v1/contexts", json={"image_url": url})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", "image_url")
    return error


@pytest.mark.parametrize("form", FORMATS)
def test_the_answer_is_that_of_the_picture_in_every_format(server, form):
    question = questions(1, 1)[0]
    picture = Image.open(io.BytesIO(png(1)))
    options = {"quality": 100} if form in ("JPEG", "WEBP", "AVIF") else {}
    url = data_url(encoded(picture, form, **options), "image/png")  # a type that most of them contradict
    assert ask(server, url, question.text).text == question.answer


def test_a_picture_by_its_url_is_the_same_context_as_by_its_bytes(server, web):
    sent = ask(server, data_url(png(1)))
    fetched = ask(server, f"http://127.0.0.1:{web}/picture.png")
    assert (fetched.status, fetched.cache, fetched.context_id) == (200, "hit", sent.context_id)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("http://127.0.0.1:{port}/none.png", "image_fetch_failed"),
        ("http://127.0.0.1:{port}/to/http://localhost:{port}/picture.png", "image_fetch_failed"),
        ("http://127.0.0.1:{port}/to/file:///etc/passwd", "image_fetch_failed"),
        ("https://pictures.invalid/a.png", "image_fetch_failed"),
        ("http://localhost:{port}/picture.png", "image_url_not_allowed"),
        ("http://127.0.0.1:{port}@evil.invalid/", "image_url_not_allowed"),
        ("http://2130706433:{port}/picture.png", "image_url_not_allowed"),
        ("http://169.254.169.254/latest/meta-data/", "image_url_not_allowed"),
        ("file:///etc/passwd", "image_url_not_allowed"),
    ],
)
def test_what_is_not_fetched(server, web, path, code):
    outcome = {"image_fetch_failed": "failed", "image_url_not_allowed": "not_allowed"}[code]
    before = server.metric("image_fetches_total", outcome=outcome)
    assert error_of(server, path.format(port=web))["code"] == code
    assert server.metric("image_fetches_total", outcome=outcome) == before + 1


def test_an_image_that_takes_too_long_is_a_clear_error_and_others_go_on(server):
    data = encoded(Image.new("L", (6000, 6000), 128), "JPEG", progressive=True)
    endless = data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 2000 + data[-2:]
    found = []
    slow = threading.Thread(target=lambda: found.append(error_of(server, data_url(endless))))
    slow.start()
    assert ask(server, data_url(png(2))).status == 200
    slow.join()
    assert found[0]["code"] == "invalid_image"
    assert found[0]["message"] == f"The image takes longer than {LIMIT_SECONDS} seconds to decode."
    assert server.metric("image_decodes_total", outcome="timeout") == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (3, 2)])
def test_the_smallest_and_longest_pictures_are_answered_about(server, size):
    assert ask(server, data_url(encoded(Image.new("RGB", size), "PNG"))).status == 200


def test_what_is_no_image(server):
    for data, said in ((b"%PDF-1.4", "no image of a known format"), (png(1)[:500], "damaged")):
        error = error_of(server, data_url(data))
        assert error["code"] == "invalid_image"
        assert said in error["message"]
    long = error_of(server, data_url(encoded(Image.new("1", (20_001, 200)), "PNG")))
    assert "the limit is 20000 a side" in long["message"]


def test_openapi_names_the_formats(server):
    described = server.get("/openapi.json").json()["components"]["schemas"]["ImageUrl"]["properties"]["url"][
        "description"
    ]
    assert all(form in described for form in FORMATS)


def test_https_with_an_authority_of_the_operators_own(monkeypatch, tmp_path, web):
    certificate = make_certificate(tmp_path, "web")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate.path, certificate.key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Web) as secure:
        secure.socket = tls.wrap_socket(secure.socket, server_side=True)
        thread = threading.Thread(target=secure.serve_forever)
        thread.start()
        hosts = ["--image-hosts", f"127.0.0.1:{secure.server_port}", "--image-networks", "127.0.0.0/8"]
        with LookonceServer(*hosts) as server:
            assert ask(server, f"https://127.0.0.1:{secure.server_port}/picture.png").status == 200
            assert error_of(server, f"http://127.0.0.1:{secure.server_port}/")["code"] == "image_url_not_allowed"
        secure.shutdown()
        thread.join()

"""Whatever is sent to any route, by a client that may ask and by one that may not, what comes back is documented.

More of it, or other requests: LOOKONCE_TEST_FUZZ_REQUESTS and LOOKONCE_TEST_FUZZ_SEED.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator

import pytest

from lookonce_server.auth.tenants import key_hash, new_key

from ..support.pictures import picture_url, png
from ..support.server_process import MODEL, LookonceServer
from .fuzz import Fuzzer, Judge, routes, send

_log = logging.getLogger(__name__)
REQUESTS = int(os.environ.get("LOOKONCE_TEST_FUZZ_REQUESTS", "1000"))  # of each server
SEED = int(os.environ.get("LOOKONCE_TEST_FUZZ_SEED", "1"))
KEY = new_key()
LIMITS = (
    "--log-level",
    "debug",
    "--log-format",
    "json",
    "--max-answer-tokens",
    "4",
    "--body-timeout",
    "0.5",
    "--header-timeout",
    "0.5",
)
OPEN = ("--image-hosts", "a.example,127.0.0.1")
SERVERS = {"open": OPEN, "with keys": ("--api-key-hashes", f"acme=sha256:{key_hash(KEY)}")}


@pytest.fixture(scope="module", params=SERVERS)
def server(request) -> Iterator[LookonceServer]:
    with LookonceServer(*LIMITS, *SERVERS[request.param]) as running:
        yield running


def known_to(server: LookonceServer) -> list[str]:
    """Ids of a context, of a response and of a file that the server keeps."""
    key = {"authorization": f"Bearer {KEY}"}
    context = server.post("/v1/contexts", json={"image_url": picture_url(7)}, headers=key).json()["id"]
    response = server.post("/v1/responses", json={"model": MODEL, "input": "Hi"}, headers=key).json()["id"]
    upload = {"files": {"file": ("a.png", png(7))}, "data": {"purpose": "vision"}}
    file = server.post("/v1/files", headers=key, **upload).json()["id"]
    return [context, response, file]


def test_whatever_is_sent_is_answered_as_documented(server):
    document = server.get("/openapi.json").json()
    requests = Fuzzer(document, KEY, known_to(server), SEED).requests(REQUESTS)
    sent = [send(server, data) for data in requests]
    statuses = Counter(one.answer.status if one.answer else None for one in sent)
    longest = max(sent, key=lambda one: one.seconds)
    _log.info("%d requests, %s, longest %.2f s: %r", len(sent), statuses, longest.seconds, longest.data[:200])
    ids = [one.answer.headers["x-request-id"] for one in sent if one.answer and "x-request-id" in one.answer.headers]
    faults = Judge(document).faults(sent, server.log_with(*ids[-20:]))  # those before were written long ago
    if faults:
        pytest.fail(f"{len(faults)} of {len(sent)}:\n" + "\n\n".join(faults[:10]), pytrace=False)
    assert {200, 400, 403, 404, 405} <= statuses.keys()
    assert "Traceback" not in server.log()
    with server.openai(KEY) as client:
        assert client.models.list().data


def test_every_route_is_in_the_document_or_a_page(server):
    document = server.get("/openapi.json").json()
    hidden = {target.path for target in routes()} - document["paths"].keys()
    pages = {"/", "/docs", "/openapi.json", "/monitor", "/monitor/data.json"}
    assert all(path in pages or path.startswith("/playground/") for path in hidden)
    assert document["paths"].keys() <= {target.path for target in routes()}

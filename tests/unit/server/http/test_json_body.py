"""Bodies that are compressed, or do not say that they are JSON: the error names the header."""

import gzip
import json

import pytest

from ....support.app_requests import body

pytestmark = pytest.mark.anyio
CHAT = json.dumps(body()).encode()
RESPONSE = json.dumps({"model": "m", "input": "Hi", "max_output_tokens": 2}).encode()


@pytest.mark.parametrize(("path", "content"), [("/v1/chat/completions", CHAT), ("/v1/responses", RESPONSE)])
async def test_a_body_that_is_read_says_that_it_is_json(client, path, content):
    for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON", "application/vnd.a+json"):
        for encoding in ({}, {"content-encoding": "identity"}):
            reply = await client.post(path, content=content, headers={"content-type": kind} | encoding)
            assert reply.status_code == 200, (kind, reply.text)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_a_body_of_another_kind_is_refused_by_its_header(client, path):
    # The first is what curl says by itself; the first three are what a browser sends without asking first.
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", "text/json", ""):
        headers = {"content-type": kind} if kind else {}
        reply = await client.post(path, content=CHAT, headers=headers)
        error = reply.json()["error"]
        assert (reply.status_code, error["param"], error["code"]) == (415, "content-type", "unsupported_media_type")
        assert kind.partition(";")[0] in error["message"]
        assert "accepted here: application/json." in error["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/contexts"])
async def test_a_compressed_body_is_refused_by_its_header(client, path):
    for encoding in ("gzip", "br", "deflate", "zstd", "gzip, br", "x" * 500):
        headers = {"content-type": "application/json", "content-encoding": encoding}
        reply = await client.post(path, content=gzip.compress(CHAT), headers=headers)
        error = reply.json()["error"]
        assert (reply.status_code, error["param"], error["code"]) == (415, "content-encoding", "unsupported_media_type")
        assert f"'{encoding[:80]}'" in error["message"]
        assert "uncompressed" in error["message"]

"""Requests to the whole app, without a network."""

import asyncio
import base64
import json
from typing import Any

import httpx2
from fastapi import FastAPI

from .samples import png

URL = "data:image/png;base64," + base64.b64encode(png(1)).decode()
OTHER_URL = "data:image/png;base64," + base64.b64encode(png(2)).decode()


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def image(url: str = URL, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url} | more}


def user(*parts: Any) -> dict[str, Any]:
    """A user's message of such parts; a text alone is one."""
    return {"role": "user", "content": [text(part) if isinstance(part, str) else part for part in parts]}


def body(**fields: Any) -> dict[str, Any]:
    """A short request, with fields in place of its own or beside them."""
    return {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2} | fields


async def send(app: FastAPI, request: Any) -> httpx2.Response:
    """Send a chat request: JSON as bytes, or what is made JSON of, in ASCII, which can stand for what UTF-8 cannot."""
    content = request if isinstance(request, bytes) else json.dumps(request).encode()
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with asyncio.timeout(60), httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        headers = {"content-type": "application/json"}
        return await client.post("/v1/chat/completions", content=content, headers=headers)


def events_of(reply: httpx2.Response) -> list[dict[str, Any]]:
    """The chunks of a whole stream."""
    *events, done = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]

"""Asking /v1/responses, each answer held against OpenAI's own types."""

import asyncio
import base64
import json

import httpx2
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from .samples import png

NEVER = f"resp_{'0' * 64}"
LONG = "Describe the video."  # whose answer has many tokens
RESPONSE, EVENT = TypeAdapter(Response), TypeAdapter(ResponseStreamEvent)


async def post(client, input_="What is there?", **fields) -> httpx2.Response:
    body = {"model": "m", "input": input_, "max_output_tokens": 12} | fields
    async with asyncio.timeout(60):
        return await client.post("/v1/responses", json=body)


async def asked(client, input_="What is there?", **fields) -> dict:
    """A whole response, which OpenAI's own types accept."""
    reply = await post(client, input_, **fields)
    assert reply.status_code == 200, reply.text
    RESPONSE.validate_json(reply.text, strict=True)
    return reply.json()


async def streamed(client, input_="What is there?", **fields) -> list[dict]:
    """The events of a response, which OpenAI's own types accept; they are numbered, and each has its name."""
    reply = await post(client, input_, stream=True, **fields)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in reply.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        EVENT.validate_json(data.removeprefix("data: "), strict=True)
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


async def refused(client, status=400, **fields) -> dict:
    reply = await post(client, **fields)
    assert reply.status_code == status, reply.text
    return reply.json()["error"]


def picture(seed: int) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(seed)).decode()}"


def about(image: str, text: str = "What is there?") -> list[dict]:
    """Input with an image in front."""
    parts = [{"type": "input_image", "image_url": image, "detail": "auto"}, {"type": "input_text", "text": text}]
    return [{"type": "message", "role": "user", "content": parts}]


def text_of(response: dict) -> str:
    messages = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part["text"] for message in messages for part in message["content"])


def unmoving(response: dict) -> dict:
    """A response without what is different each time."""
    (message,) = response["output"]
    varying = {"id", "created_at", "completed_at", "output"}
    return {k: v for k, v in response.items() if k not in varying} | {"content": message["content"]}

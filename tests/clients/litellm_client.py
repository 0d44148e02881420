"""LiteLLM's completion and acompletion."""

import asyncio
import json
from typing import Any

import litellm
from asked import TOO_LONG, asked, error_of, schema, tell


def text_of(chunk: Any) -> str:
    return chunk.choices[0].delta.content or ""


async def main() -> None:
    given = asked()
    server: dict[str, Any] = {
        "model": f"openai/{given.model}",
        "api_base": given.base_url,
        "api_key": "any",
        "max_tokens": 24,
        "max_retries": 0,
    }
    text = [{"role": "user", "content": given.text}]
    image = {"type": "image_url", "image_url": {"url": given.url}}
    about = [{"role": "user", "content": [{"type": "text", "text": given.question}, image]}]
    whole = litellm.completion(messages=text, **server)
    streamed = [text_of(chunk) for chunk in litellm.completion(messages=text, stream=True, **server)]
    later = await litellm.acompletion(messages=text, **server)
    chunks = await litellm.acompletion(messages=text, stream=True, **server)
    later_streamed = [text_of(chunk) async for chunk in chunks]
    first = litellm.completion(messages=about, **server)
    again = "".join(text_of(chunk) for chunk in litellm.completion(messages=about, stream=True, **server))
    wanted = {"type": "json_schema", "json_schema": {"name": "seen", "schema": schema(), "strict": True}}
    structured = litellm.completion(messages=text, response_format=wanted, **server)
    try:
        litellm.completion(messages=text, temperature=3, **server)
    except litellm.BadRequestError as error:
        refused = error_of(error)
    too_long = []
    for said in TOO_LONG:
        try:
            litellm.completion(messages=[{"role": "user", "content": said}], **server)
        except litellm.ContextWindowExceededError as error:
            too_long.append(error_of(error)["kind"])
    spared = litellm.completion(messages=text, fallbacks=[server], **server | {"model": "openai/another"})
    history = [*text, whole.choices[0].message.model_dump(), *text]
    objects = [*text, whole.choices[0].message, *text]  # as LiteLLM's own documentation has it
    tell(
        whole=whole.choices[0].message.content,
        usage=whole.usage.completion_tokens,
        streamed=streamed,
        later=later.choices[0].message.content,
        later_streamed=later_streamed,
        first=first.choices[0].message.content,
        again=again,
        structured=json.loads(structured.choices[0].message.content),
        refused=refused,
        too_long=too_long,
        spared=spared.choices[0].message.content,
        history=[litellm.completion(messages=one, **server).choices[0].message.content for one in (history, objects)],
    )


asyncio.run(main())

"""llama-index-llms-openai-like's OpenAILike."""

import asyncio
import json

import openai
from asked import asked, error_of, schema, tell
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.llms.openai_like import OpenAILike


async def main() -> None:
    given = asked()
    llm = OpenAILike(
        model=given.model, api_base=given.base_url, api_key="any", is_chat_model=True, max_tokens=24, max_retries=0
    )
    text = [ChatMessage(role="user", content=given.text)]
    about = [ChatMessage(role="user", blocks=[ImageBlock(path=given.picture), TextBlock(text=given.question)])]
    whole = llm.chat(text)
    streamed = [chunk.delta or "" for chunk in llm.stream_chat(text)]
    later = await llm.achat(text)
    later_streamed = [chunk.delta or "" async for chunk in await llm.astream_chat(text)]
    first = llm.chat(about)
    again = [chunk.delta or "" for chunk in llm.stream_chat(about)]
    wanted = {"type": "json_schema", "json_schema": {"name": "seen", "schema": schema(), "strict": True}}
    structured = llm.chat(text, response_format=wanted)
    try:
        llm.chat(text, temperature=3)
    except openai.BadRequestError as error:
        refused = error_of(error)
    tell(
        whole=whole.message.content,
        usage=whole.raw.usage.completion_tokens,
        streamed=streamed,
        later=later.message.content,
        later_streamed=later_streamed,
        first=first.message.content,
        again="".join(again),
        structured=json.loads(structured.message.content or ""),
        refused=refused,
        history=[llm.chat([*text, whole.message, *text]).message.content],
    )


asyncio.run(main())

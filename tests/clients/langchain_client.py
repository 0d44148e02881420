"""langchain-openai's ChatOpenAI."""

import asyncio

import openai
from asked import TOO_LONG, Asked, asked, error_of, schema, tell
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import OpenAIContextOverflowError


def about(question: str, given: Asked) -> list[HumanMessage]:
    """As OpenAI's part: LangChain's own kind of image block is what the docs' snippet sends."""
    content = [{"type": "image_url", "image_url": {"url": given.url}}, {"type": "text", "text": question}]
    return [HumanMessage(content)]


async def main() -> None:
    given = asked()
    chat = ChatOpenAI(model=given.model, base_url=given.base_url, api_key="any", max_tokens=24, max_retries=0)
    whole = chat.invoke(given.text)
    chunks = list(chat.stream(given.text))
    later = await chat.ainvoke(given.text)
    later_chunks = [chunk async for chunk in chat.astream(given.text)]
    first = chat.invoke(about(given.question, given))
    again = [chunk.content for chunk in chat.stream(about(given.question, given))]
    structured = chat.with_structured_output({"title": "Seen", **schema()}, method="json_schema")
    try:
        chat.bind(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]).invoke(given.text)
    except openai.BadRequestError as error:
        refused = error_of(error)
    too_long = []
    for said in TOO_LONG:
        try:
            chat.invoke(said)
        except OpenAIContextOverflowError as error:
            too_long.append(error_of(error)["kind"])
    turn = [HumanMessage(given.text)]
    last = chunks[0]
    for chunk in chunks[1:]:
        last += chunk
    parsed = chat.with_structured_output({"title": "Seen", **schema()}, method="json_schema", include_raw=True)
    raw = parsed.invoke(given.text)["raw"]
    tell(
        whole=whole.content,
        usage=whole.usage_metadata["output_tokens"],
        streamed=[chunk.content for chunk in chunks],
        later=later.content,
        later_streamed=[chunk.content for chunk in later_chunks],
        first=first.content,
        again="".join(again),
        structured=structured.invoke(given.text),
        refused=refused,
        too_long=too_long,
        history=[chat.invoke([*turn, answer, *turn]).content for answer in (whole, last)],
        parsed_history=chat.invoke([*turn, raw, *turn]).content,
    )


asyncio.run(main())

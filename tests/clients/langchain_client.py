"""langchain-openai's ChatOpenAI."""

import asyncio

import openai
from asked import Asked, asked, error_of, schema, tell
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI


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
    )


asyncio.run(main())

"""A LangChain agent with a tool that the model chooses, and a model that is bound to call one."""

import sys
from typing import Annotated

from asked import asked, tell
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import Field

counts: list[int] = []


@tool
def report(count: Annotated[int, Field(ge=0, le=9)]) -> str:
    """Find the red object."""
    counts.append(count)
    return "Is there a red circle?"


def main() -> None:
    kind = sys.argv.pop()
    given = asked()
    chat = ChatOpenAI(model=given.model, base_url=given.base_url, api_key="any", max_tokens=64, max_retries=0)
    image = {"type": "image_url", "image_url": {"url": given.url}}
    messages = [{"role": "user", "content": [image, {"type": "text", "text": given.question}]}]
    if kind == "forced":
        bound = chat.bind_tools([report], tool_choice="report")
        (call,) = bound.invoke(messages).tool_calls
        whole = None
        for chunk in bound.stream(messages):
            whole = chunk if whole is None else whole + chunk
        tell(call=[call["name"], call["args"]], streamed=[[c["name"], c["args"]] for c in whole.tool_calls])
        return
    result = create_agent(chat, [report]).invoke({"messages": messages})["messages"]
    calls = [call["name"] for message in result if isinstance(message, AIMessage) for call in message.tool_calls]
    tell(counts=counts, calls=calls, answer=result[-1].content)


main()

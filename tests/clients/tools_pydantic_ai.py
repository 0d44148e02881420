"""pydantic-ai: an output type, which forces a call, and a tool, which the model chooses."""

import sys
from typing import Literal

from asked import Asked, asked, tell
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Report(BaseModel):
    """Report what is seen."""

    color: Literal["red", "green", "blue"]
    sure: bool


def forced(model: OpenAIChatModel, prompt: list) -> None:
    agent = Agent(model, output_type=Report, model_settings={"max_tokens": 200})
    tell(report=agent.run_sync(prompt).output.model_dump())


def chosen(model: OpenAIChatModel, prompt: list) -> None:
    counts: list[int] = []
    agent = Agent(model, model_settings={"max_tokens": 24})

    @agent.tool_plain
    def report(count: int) -> str:
        """Find the red object."""
        counts.append(count)
        return "Is there a red circle?"

    result = agent.run_sync(prompt)
    calls = [p.tool_name for m in result.all_messages() for p in m.parts if isinstance(p, ToolCallPart)]
    tell(counts=counts, calls=calls, answer=result.output)


def main() -> None:
    kind = sys.argv.pop()
    given: Asked = asked()
    provider = OpenAIProvider(base_url=given.base_url, api_key="any")
    prompt = [BinaryContent(given.picture.read_bytes(), media_type="image/png"), given.question]
    {"forced": forced, "chosen": chosen}[kind](OpenAIChatModel(given.model, provider=provider), prompt)


main()

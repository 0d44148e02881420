"""A smolagents agent, whose model is forced to call one of its tools in each step."""

from typing import Literal

from asked import asked, tell
from PIL import Image
from smolagents import OpenAIModel, ToolCallingAgent, tool
from smolagents.agents import EMPTY_PROMPT_TEMPLATES
from smolagents.monitoring import LogLevel

counts: list[int] = []


@tool
def report(count: Literal[3, 4]) -> str:
    """Report a number.

    Args:
        count: how many there are.
    """
    counts.append(count)
    return "Noted."


def main() -> None:
    given = asked()
    model = OpenAIModel(model_id=given.model, api_base=given.base_url, api_key="any", max_tokens=64)
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": Image.open(given.picture)},
                {"type": "text", "text": given.question},
            ],
        }
    ]
    answer = model.generate(messages, tools_to_call_from=[report])
    call = answer.tool_calls[0]  # of as many as it likes
    agent = ToolCallingAgent([report], model, EMPTY_PROMPT_TEMPLATES, max_steps=1, verbosity_level=LogLevel.OFF)
    agent.run(given.question, images=[Image.open(given.picture)], max_steps=1)
    tell(call=[call.function.name, call.function.arguments], steps=len(agent.memory.steps))


main()

"""instructor in its default mode, which forces a call of a function with the model's fields."""

from typing import Literal

import instructor
from asked import asked, tell
from openai import OpenAI
from pydantic import BaseModel


class Report(BaseModel):
    """Report what is seen."""

    color: Literal["red", "green", "blue"]
    sure: bool


def main() -> None:
    given = asked()
    client = instructor.from_openai(OpenAI(base_url=given.base_url, api_key="any", max_retries=0))
    image = {"type": "image_url", "image_url": {"url": given.url}}
    messages = [{"role": "user", "content": [image, {"type": "text", "text": given.question}]}]
    report, raw = client.chat.completions.create_with_completion(
        model=given.model, messages=messages, response_model=Report, max_tokens=200, max_retries=0
    )
    partial = list(
        client.chat.completions.create_partial(
            model=given.model, messages=messages, response_model=Report, max_tokens=200, max_retries=0
        )
    )
    tell(
        report=report.model_dump(),
        streamed=partial[-1].model_dump(),
        calls=[call.function.name for call in raw.choices[0].message.tool_calls],
    )


main()

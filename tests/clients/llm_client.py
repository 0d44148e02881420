"""`llm`, from Python; the test runs its command too."""

import asyncio
import json

import llm
from asked import asked, error_of, schema, tell


async def main() -> None:
    given = asked()
    model, later_model = llm.get_model("lookonce"), llm.get_async_model("lookonce")
    picture = llm.Attachment(path=str(given.picture))
    whole = model.prompt(given.text, stream=False, max_tokens=24)
    later = await later_model.prompt(given.text, stream=False, max_tokens=24)
    first = model.prompt(given.question, attachments=[picture], stream=False, max_tokens=24)
    told = {
        "whole": whole.text(),
        "usage": whole.usage().output,
        "streamed": list(model.prompt(given.text, max_tokens=24)),
        "later": await later.text(),
        "later_streamed": [piece async for piece in later_model.prompt(given.text, max_tokens=24)],
        "first": first.text(),
        "again": "".join(model.prompt(given.question, attachments=[picture], max_tokens=24)),
        "structured": json.loads(model.prompt(given.text, schema=schema(), stream=False, max_tokens=24).text()),
    }
    try:
        model.prompt(given.text, stream=False, logit_bias={"99999": 1}).text()
    except Exception as error:
        told["refused"] = error_of(error)
    tell(**told)


asyncio.run(main())

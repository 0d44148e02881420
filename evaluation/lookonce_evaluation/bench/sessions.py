"""Ask servers about images in sessions, as openai's client does, and judge each answer."""

import asyncio
import base64
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import openai

from lookonce_evaluation.bench.load import MAX_TOKENS, Expected, Picture

RETRIES = 2  # of openai's client, of its own accord: its default
TRIES = 5  # of whoever asks, where the client gave up or a stream broke
TIMEOUT_SECONDS = 120.0


class Asked(NamedTuple):
    """A question and what came of it."""

    outcome: Literal["right", "wrong", "lost"]
    hit: bool = False
    asked_again: int = 0  # times that the client gave up, or a stream broke
    seconds: float = 0.0
    detail: str = ""


class Load(NamedTuple):
    """How much is asked."""

    pictures: Sequence[Picture]
    sessions: int
    questions: int  # about each session's image
    at_once: int  # sessions


async def ask_sessions(
    url: str, load: Load, disturb: Callable[[], object] | None = None, *, after: float = 0.25
) -> list[Asked]:
    """Ask until all sessions are over, and the disturbance is too.

    Args:
        url: of the servers.
        load: how much is asked.
        disturb: called in a thread while the load runs.
        after: share of the questions after which it is.
    """
    asked: list[Asked] = []
    middle, is_over = asyncio.Event(), asyncio.Event()

    async def work(numbers: Iterator[int]) -> None:
        for number in numbers:
            if number >= load.sessions and is_over.is_set():
                return
            picture = load.pictures[number % len(load.pictures)]
            image = "data:image/png;base64," + base64.b64encode(picture.file()).decode()
            for position, text in zip(range(load.questions), itertools.cycle(picture.answers)):
                asked.append(await _ask(client, image, text, picture.answers[text], stream=position % 2 == 1))
                if len(asked) >= after * load.sessions * load.questions:
                    middle.set()

    async def meddle() -> None:
        await middle.wait()
        if disturb is not None:
            await asyncio.to_thread(disturb)
        is_over.set()

    async with (
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=RETRIES, timeout=TIMEOUT_SECONDS) as client,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(meddle())
        numbers = itertools.count()
        for _ in range(load.at_once):
            group.create_task(work(numbers))
    return asked


async def _ask(client: openai.AsyncOpenAI, image: str, text: str, expected: Expected, *, stream: bool) -> Asked:
    """Ask one question until it is answered, a few times at most."""
    content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": text}]
    body: dict[str, Any] = {
        "model": "lookonce-scenes",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }
    began = time.monotonic()
    detail = ""
    for again in range(TRIES):
        try:
            answer, info = await (_streamed(client, body) if stream else _whole(client, body))
        except openai.OpenAIError as error:
            detail = f"{type(error).__name__}: {error}"
        else:
            right = expected.context if info["context_tokens"] else expected.full
            detail = f"{text!r}: {answer!r}, {info}; right is {expected}"
            outcome: Literal["right", "wrong"] = "right" if answer == right else "wrong"
            return Asked(outcome, info["cache"] == "hit", again, time.monotonic() - began, detail)
    return Asked("lost", False, TRIES, time.monotonic() - began, detail)


async def _whole(client: openai.AsyncOpenAI, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    completion = await client.chat.completions.create(**body)
    return completion.choices[0].message.content or "", (completion.model_extra or {})["lookonce"]


async def _streamed(client: openai.AsyncOpenAI, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a streamed answer; a stream that ends too soon is an error."""
    texts: list[str] = []
    info: dict[str, Any] | None = None
    finished = False
    stream = await client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
    try:
        async for chunk in stream:
            info = (chunk.model_extra or {}).get("lookonce") or info
            for choice in chunk.choices:
                texts.append(choice.delta.content or "")
                finished = finished or choice.finish_reason is not None
    except Exception as error:  # the HTTP library's own, of a connection that broke
        raise openai.OpenAIError(f"the stream broke: {error}") from error
    if info is None or not finished:
        raise openai.OpenAIError("the stream ended before the answer")
    return "".join(texts), info

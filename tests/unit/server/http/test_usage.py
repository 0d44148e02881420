"""What becomes of questions, in numbers."""

import time

import pytest
from openai.types import chat

from lookonce_server.engines.base import Piece, Started
from lookonce_server.http.usage import Usage
from lookonce_server.images.sources import ImageBytes
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.context_options import ContextOptions
from lookonce_server.sessions.fallback import Fallback
from lookonce_server.sessions.lookup import ImageLookup, Lookup

from ....support.app_requests import OTHER_URL, URL, body, image, user
from ....support.responses_requests import about as about_image
from ....support.responses_requests import asked
from ....support.samples import GREEDY, TENANT, about, png

pytestmark = pytest.mark.anyio
WANTED = ContextOptions(fallback=True)
STARTED = Started(30, 10, 210)
LOOKUP = Lookup("hit", (ImageLookup("hit", "c" * 64, "memory"),))


def rates(*answers: list[tuple[float, int]]) -> tuple[float, float]:
    """How many speeds are counted and what they add up to, of answers given by when and how many tokens were made."""
    metrics = Metrics()
    usage = Usage(LOOKUP, [STARTED] * len(answers), metrics, 0.0)
    for i, answer in enumerate(answers):
        for made_at, tokens in answer:
            usage.count(i, Piece("x", tokens, None, made_at=made_at))
    usage.finish()
    name = "lookonce_generation_tokens_per_second"
    return tuple(metrics.registry.get_sample_value(f"{name}_{part}") for part in ("count", "sum"))


def test_the_speed_is_that_of_the_model():
    assert rates([(10.0, 1), (10.5, 1), (11.0, 1)]) == (1, 2.0)
    assert rates([(10.0, 3), (11.0, 1), (11.0, 1), (12.0, 2)]) == (1, 2.0)  # the three that came first are the start
    assert rates([(10.0, 1), (11.0, 1)], [(20.0, 1), (20.25, 1)]) == (2, 5.0)


def test_where_no_speed_can_be_told_none_is_counted():
    assert rates([(10.0, 1)]) == (0, 0.0)
    assert rates([(10.0, 1), (10.0, 7)]) == (0, 0.0)


async def test_tokens_that_were_held_back_have_the_times_at_which_they_were_made(bench_with, bench):
    await bench.ask(png(83), "How many objects are there?", "compress")
    looking = bench_with(bench.store, fallback=Fallback(margin=0.0, tokens=4))
    question = about("Describe the image.")
    images = [ImageBytes(png(83), "image")]
    session = await looking.sessions.ask(question, images, GREEDY, tenant=TENANT, options=WANTED)
    begun = time.monotonic()
    times = [event.made_at async for event in session.answers[0] if isinstance(event, Piece)]
    assert len(times) > 1
    assert max(times[:4]) < begun
    assert times == sorted(set(times))


# --- OpenAI's details of the prompt -----------------------------------------------------------------------------------


def details(reply) -> tuple[int, int, int | None]:
    found = reply.json()["usage"]["prompt_tokens_details"]
    return found["cached_tokens"], found["image_tokens"], found["cache_write_tokens"]


async def test_image_and_cache_tokens_are_those_of_the_answer(client):
    def question(*urls: str, **options) -> dict:
        parts = [image(url) for url in urls]
        return body(messages=[user(*parts, "What is there?")], lookonce=options)

    async def ask(*urls: str, **options):
        return await client.post("/v1/chat/completions", json=question(*urls, **options))

    new = await ask(URL)  # the whole image answers, and of it 5% are kept
    assert details(new) == (0, 196, 10)
    hit = await ask(URL)
    context = hit.json()["lookonce"]
    assert details(hit) == (context["context_tokens"], 10, 0)
    assert details(await ask(URL, mode="full_image")) == (0, 196, 0)
    first = await ask(OTHER_URL, mode="describe_first", retention=0.1)
    assert details(first) == (first.json()["lookonce"]["context_tokens"], 20, 20)
    assert details(await ask(URL, OTHER_URL)) == (0, 392, None)  # which of these tokens are the new one's is not known
    assert details(await client.post("/v1/chat/completions", json=body())) == (0, 0, 0)
    chat.ChatCompletion.model_validate_json(hit.text, strict=True)
    response = await asked(client, about_image(URL))
    assert response["usage"]["input_tokens_details"] == {
        "cached_tokens": context["context_tokens"], "image_tokens": 10, "cache_write_tokens": 0
    }  # fmt: skip


async def test_what_was_saved_is_counted_by_tenant(client):
    before = (await client.get("/v1/contexts/stats")).json()["tokens_saved"]
    await client.post("/v1/contexts", json={"image_url": URL})
    replies = [
        await client.post("/v1/chat/completions", json=body(messages=[user(image(), "Hi")], n=n, stream=stream))
        for n, stream in ((1, False), (2, False), (1, True))
    ]
    saved = replies[0].json()["lookonce"]["tokens_saved"]
    after = (await client.get("/v1/contexts/stats")).json()["tokens_saved"]
    assert after - before == 4 * saved > 0

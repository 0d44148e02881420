"""Never the wrong picture: many pictures, asked about all at once, each answer checked against its own."""

import asyncio
import random

import openai

from ..support.pictures import messages, picture_url, png, questions, scene
from ..support.server_process import MODEL, LookonceServer

IMAGES = 50
ASKED_OF_EACH = 10
AT_ONCE = 32
RIGHT_ANSWERS = 0.8  # share of all answers that the bundled model must get right
# "What is there?" answers tell pictures apart: a wrong context shows as another picture's objects.
FIRST_SEED = 2000


def asked() -> list[tuple[int, str, str]]:
    """(seed, question, right answer): the same questions for every picture where they have an answer."""
    found = []
    for seed in range(FIRST_SEED, FIRST_SEED + IMAGES):
        found += [(seed, q.text, q.answer) for q in questions(seed, ASKED_OF_EACH)]
    return found


def test_the_pictures_differ_and_so_do_their_answers():
    seeds = range(FIRST_SEED, FIRST_SEED + IMAGES)
    assert len({png(seed) for seed in seeds}) == IMAGES
    assert len({scene(seed).caption for seed in seeds}) == IMAGES
    assert len(asked()) == IMAGES * ASKED_OF_EACH
    assert len({answer for _, _, answer in asked()}) > 20


async def answer_all(server: LookonceServer, work: list[tuple[int, str]], at_once: int) -> dict[tuple[int, str], str]:
    """Each answer, by picture and question. Every second question names the context, the others send pixels."""
    http = openai.DefaultAsyncHttpx2Client(trust_env=False, timeout=120)
    limit = asyncio.Semaphore(at_once)
    ids: dict[int, str] = {}

    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="any", max_retries=0, http_client=http
    ) as client:

        async def answered(i: int, seed: int, question: str) -> tuple[tuple[int, str], str]:
            image = f"lookonce:{ids[seed]}" if i % 2 and seed in ids else picture_url(seed)
            async with limit:
                completion = await client.chat.completions.create(
                    model=MODEL,
                    messages=messages(question, image),
                    max_tokens=16,
                    extra_body={"lookonce": {"on_miss": "compress"}},
                )
            context_id = completion.lookonce["context_id"]
            assert ids.setdefault(seed, context_id) == context_id
            return (seed, question), completion.choices[0].message.content

        answers = dict(await asyncio.gather(*(answered(i, *one) for i, one in enumerate(work))))
    assert len(set(ids.values())) == len(ids)  # no two pictures share a context
    return answers


def test_every_answer_is_its_own_pictures(server):
    work = asked()
    described = server.metric("describes_total")
    done = server.metric("describes_total", result="done")
    shuffled = [(seed, question) for seed, question, _ in work]
    random.Random(0).shuffle(shuffled)
    together = asyncio.run(answer_all(server, shuffled, AT_ONCE))
    assert len(together) == IMAGES * ASKED_OF_EACH
    assert server.metric("describes_total", result="done") == done + IMAGES
    assert server.metric("describes_total") == described + IMAGES

    alone = asyncio.run(answer_all(server, sorted(shuffled), 1))
    mixed = {key: (alone[key], together[key]) for key in alone if alone[key] != together[key]}
    assert not mixed, mixed

    wrong = [(seed, question, truth, together[seed, question]) for seed, question, truth in work
             if together[seed, question].strip().lower() != truth.lower()]  # fmt: skip
    assert len(wrong) <= (1 - RIGHT_ANSWERS) * len(work), f"{len(wrong)} of {len(work)} are wrong, as {wrong[:10]}"

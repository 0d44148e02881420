"""Several images in a conversation, as OpenAI's own client asks a real server about them."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from ..support.pictures import data_url, png, questions
from ..support.server_process import MODEL, LookonceServer

SEEDS = tuple(range(140, 148))
QUESTION = questions(SEEDS[0], 1)[0].text
FIND = "Find the object."


def image(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def text(said: str) -> dict:
    return {"type": "text", "text": said}


def user(*parts: dict) -> dict:
    return {"role": "user", "content": list(parts)}


def url_of(seed: int) -> str:
    return data_url(png(seed))


def ask(client: openai.OpenAI, urls, question: str = FIND, **lookonce):
    return send(client, [user(*map(image, urls), text(question))], **lookonce)


def send(client: openai.OpenAI, messages: list, **lookonce):
    return client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=24, extra_body={"lookonce": lookonce}
    )


def answer_of(completion) -> tuple:
    """What has to be equal where the same contexts answer, whether they were just made or not."""
    made = {"prompt_tokens_details": {"cache_write_tokens"}}
    return completion.choices[0].message.content, completion.usage.model_dump_json(exclude=made)


def caches(completion) -> list[str]:
    return [one["cache"] for one in completion.lookonce["images"]]


@pytest.fixture(scope="module")
def ids(server, client) -> dict[int, str]:
    """The ids of the pictures' contexts, which the server has."""
    made = [server.post("/v1/contexts", json={"image_url": url_of(seed)}).json() for seed in SEEDS]
    return {seed: context["id"] for seed, context in zip(SEEDS, made, strict=True)}


def test_two_to_eight_known_images_in_any_order_and_company(server, client, ids):
    """By pixels, by ids and mixed, alone and while others ask: always the answer of these contexts in this order."""
    orders = [seeds for count in (2, 3, 5, 8) for seeds in (SEEDS[:count], SEEDS[:count][::-1], SEEDS[-count:])]
    alone = {seeds: ask(client, [f"lookonce:{ids[seed]}" for seed in seeds]) for seeds in orders}
    for seeds, completion in alone.items():
        assert (completion.lookonce["cache"], caches(completion)) == ("hit", ["hit"] * len(seeds))
        assert [one["context_id"] for one in completion.lookonce["images"]] == [ids[seed] for seed in seeds]
        usage = completion.usage
        assert usage.prompt_tokens_details.cached_tokens == completion.lookonce["context_tokens"]
        assert 0 < usage.prompt_tokens < completion.lookonce["image_tokens"] == 196 * len(seeds)
    decoded = server.metric("image_decodes_total")
    with ThreadPoolExecutor(8) as pool:
        forms = itertools.cycle([(0,), (1,), (0, 1), (1, 0, 0)])

        def mixed(seeds: tuple[int, ...], form: tuple[int, ...]):
            by_id = itertools.cycle(form)
            return ask(client, [f"lookonce:{ids[seed]}" if next(by_id) else url_of(seed) for seed in seeds])

        again = list(pool.map(mixed, orders * 2, forms))
    assert [answer_of(one) for one in again] == [answer_of(alone[seeds]) for seeds in orders * 2]
    assert server.metric("image_decodes_total") == decoded
    assert len({answer_of(one)[0] for one in alone.values()}) > 4  # else another order's would pass


def test_where_the_images_stand_is_told_to_the_model(client, ids):
    first, second = (image(f"lookonce:{ids[seed]}") for seed in SEEDS[:2])
    together = send(client, [user(first, second, text(FIND))])
    between = send(client, [user(first, text("This one is old."), second, text(FIND))])
    over_turns = send(client, [user(first), {"role": "assistant", "content": "Yes?"}, user(second, text(FIND))])
    assert caches(together) == caches(between) == caches(over_turns) == ["hit", "hit"]
    assert together.usage.prompt_tokens < between.usage.prompt_tokens
    assert together.usage.prompt_tokens < over_turns.usage.prompt_tokens


def test_some_known_and_the_same_image_twice(server, client, ids):
    """By a full pass with the new ones described behind, each once; or described first."""
    new, other = url_of(148), url_of(149)
    described = server.metric("describes_total", result="done")
    known = f"lookonce:{ids[SEEDS[0]]}"
    full = ask(client, [url_of(SEEDS[0]), new, new, url_of(SEEDS[0])])
    assert (full.lookonce["cache"], caches(full), full.lookonce["context_tokens"]) == ("miss", ["hit", "miss"], 0)
    whole = ask(client, [url_of(SEEDS[0]), new, new, url_of(SEEDS[0])], cache="bypass")
    assert (caches(whole), answer_of(whole)[0]) == (["bypass", "bypass"], answer_of(full)[0])
    hit = ask(client, [known, new])
    assert caches(hit) == ["hit", "hit"]
    first = ask(client, [known, other], on_miss="full")  # the known one's pixels are not there
    assert (caches(first), answer_of(first)) == (["hit", "miss"], answer_of(ask(client, [known, other])))
    assert server.metric("describes_total", result="done") == described + 2


def test_a_stream_is_the_same_answer(client, ids):
    urls = [f"lookonce:{ids[seed]}" for seed in SEEDS[:3]]
    whole = ask(client, urls)
    stream = client.chat.completions.create(
        model=MODEL, messages=[user(*map(image, urls), text(FIND))], max_tokens=24, stream=True
    )
    first, *chunks = list(stream)
    ids_of = [[one["context_id"] for one in event.lookonce["images"]] for event in (first, chunks[-1], whole)]
    assert ids_of[0] == ids_of[1] == ids_of[2]
    assert chunks[-1].lookonce["context_tokens"] == whole.lookonce["context_tokens"] > 0
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == answer_of(whole)[0]


def test_an_agents_screenshots_cost_one_describe_pass_each(server, client):
    """The whole history comes again each turn, with one more picture; answers as they came."""
    described, saved, messages = server.metric("describes_total", result="done"), [], []
    for turn, seed in enumerate(range(150, 158)):
        messages.append(user(text(f"Step {turn}: what is there?"), image(url_of(seed))))
        completion = send(client, messages, on_miss="compress")
        assert caches(completion) == ["hit"] * turn + ["miss"]
        assert server.metric("describes_total", result="done") == described + turn + 1
        saved.append(completion.lookonce["tokens_saved"])
        messages.append(completion.choices[0].message)
    assert saved == sorted(saved)
    assert send(client, [*messages, user(text(FIND))]).lookonce["cache"] == "hit"
    assert server.metric("describes_total", result="done") == described + 8


def test_what_is_wrong_with_one_image_is_told_by_its_place(server, client, ids):
    known, damaged = f"lookonce:{ids[SEEDS[0]]}", data_url(png(1)[:120])
    many = [f"lookonce:{i:064x}" for i in range(17)]
    refused = [
        (openai.BadRequestError, [known, damaged], "messages[0].content[1].image_url.url", "invalid_image"),
        (openai.BadRequestError, [url_of(1), damaged, "data:,x"], "messages[0].content[2].image_url.url", None),
        (openai.NotFoundError, [known, "lookonce:" + "0" * 64], None, "context_not_found"),
        (openai.BadRequestError, many, "messages[0].content[16].image_url.url", None),
    ]
    for kind, urls, param, code in refused:
        with pytest.raises(kind) as caught:
            ask(client, urls, on_miss="compress")
        assert caught.value.param == param
        assert code in (None, caught.value.code)
    with pytest.raises(openai.BadRequestError, match="17 different images; this server accepts at most 16"):
        ask(client, many)


def test_one_context_of_a_join_that_is_gone_is_made_again_or_told(server, client, ids):
    seed = SEEDS[-1]
    with server.http() as http:
        assert http.delete(f"/v1/contexts/{ids[seed]}").status_code == 200
    with pytest.raises(openai.NotFoundError, match=ids[seed]):
        ask(client, [f"lookonce:{ids[SEEDS[0]]}", f"lookonce:{ids[seed]}"])
    before = ask(client, [f"lookonce:{ids[SEEDS[0]]}", url_of(seed)])
    assert caches(before) == ["hit", "miss"]
    after = ask(client, [f"lookonce:{ids[SEEDS[0]]}", f"lookonce:{ids[seed]}"])
    assert answer_of(after) == answer_of(before)


def test_responses_go_on_with_more_images(client, ids):
    def sent(*seeds: int) -> list[dict]:
        images = [{"type": "input_image", "image_url": url_of(seed), "detail": "auto"} for seed in seeds]
        return [{"role": "user", "content": [*images, {"type": "input_text", "text": FIND}]}]

    def create(said, **options):
        return client.responses.create(model=MODEL, input=said, max_output_tokens=24, **options)

    first = create(sent(*SEEDS[:2]))
    second = create(sent(SEEDS[2], SEEDS[0]), previous_response_id=first.id)
    last = create("And?", previous_response_id=second.id)
    told = [[one["context_id"] for one in response.lookonce["images"]] for response in (first, second, last)]
    assert told == [[ids[seed] for seed in SEEDS[:count]] for count in (2, 3, 3)]
    assert last.lookonce["cache"] == "hit"
    assert last.usage.input_tokens_details.cached_tokens == last.lookonce["context_tokens"]


def test_a_server_takes_as_many_images_as_it_is_told(servers):
    """And what a question's images hold together, decoded, is bounded."""
    server: LookonceServer = servers("--max-images", "3", "--max-request-pixels", str(2 * 112 * 112))
    with server.openai() as client:
        with pytest.raises(openai.BadRequestError, match="4 different images; this server accepts at most 3"):
            ask(client, map(url_of, SEEDS[:4]))
        with pytest.raises(openai.BadRequestError, match="more pixels together than the limit") as caught:
            ask(client, map(url_of, SEEDS[:3]), cache="bypass")
        assert (caught.value.code, caught.value.param) == ("invalid_image", "messages")
        assert caches(ask(client, map(url_of, SEEDS[:2]), cache="bypass")) == ["bypass"] * 2

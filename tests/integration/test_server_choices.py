"""What OpenAI's client can ask of the tokens: several answers, log-probabilities, penalties."""

import itertools
import math

import openai
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from lookonce_scenes import CHECKPOINT
from lookonce_scenes.tokenizer import EOS
from lookonce_scenes.world import render

from ..support.pictures import find_question, messages, picture_url, scene
from ..support.server_process import MODEL

SEED = 101
FIND = find_question(SEED)
VARIED = {"temperature": 2.0, "top_p": 0.99}  # makes most answers differ


def ask(client: openai.OpenAI, question: str, image: str | None, **options):
    options = {"model": MODEL, "max_tokens": 24} | options
    return client.chat.completions.create(messages=messages(question, image), **options)


def texts_of(completion) -> list[str]:
    return [choice.message.content for choice in completion.choices]


@pytest.fixture(scope="module")
def context(server) -> str:
    """The URL of a context that the server keeps."""
    made = server.post("/v1/contexts", json={"image_url": picture_url(SEED)})
    return f"lookonce:{made.json()['id']}"


# --- several answers --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["hit", "miss"])
def sampled(request, server, client, context):
    """Asks a fixed question with the options given: about a picture that has a context, or each time a new one."""

    def ask_about(**options):
        described = server.metric("describes_total")
        image = context if request.param == "hit" else picture_url(116)
        completion = ask(client, "What is there?", image, **VARIED, **options)
        assert completion.lookonce["cache"] == request.param
        if request.param == "miss":
            server.wait_for("describes_total", described + 1)
            client.delete(f"/contexts/{completion.lookonce['context_id']}", cast_to=object)
        return completion

    return ask_about


def test_several_answers_are_those_of_the_seeds_that_follow(sampled):
    together = sampled(n=4, seed=7)
    alone = [sampled(seed=7 + i) for i in range(4)]
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    assert texts_of(together) == [texts_of(one)[0] for one in alone]
    assert len(set(texts_of(together))) > 1
    assert texts_of(sampled(n=4, seed=7)) == texts_of(together)
    assert [c.finish_reason for c in together.choices] == [one.choices[0].finish_reason for one in alone]
    usage = together.usage
    assert usage.completion_tokens == sum(one.usage.completion_tokens for one in alone)
    assert usage.prompt_tokens == alone[0].usage.prompt_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert together.lookonce == alone[0].lookonce


def test_answers_without_a_seed_differ(client, context):
    assert len(set(texts_of(ask(client, "What is there?", context, n=8, **VARIED)))) > 1


def test_greedy_answers_are_all_the_one(client, context):
    assert texts_of(ask(client, FIND, context, n=2)) == texts_of(ask(client, FIND, context)) * 2


def test_several_answers_look_once(server, client):
    before = {name: server.metric(name) for name in ("describes_total", "context_lookups_total", "requests_total")}
    ask(client, "What is there?", picture_url(108), n=3, extra_body={"lookonce": {"on_miss": "compress"}})
    after = {name: server.metric(name) for name in before}
    assert after == {name: value + 1 for name, value in before.items()}


def test_a_stream_interleaves_its_answers(client, context):
    options = {"n": 8, "seed": 7, "max_tokens": 30, **VARIED}
    whole = ask(client, "What is there?", context, **options)
    stream = ask(client, "What is there?", context, stream=True, stream_options={"include_usage": True}, **options)
    first, *chunks, last = list(stream)
    assert (last.choices, last.usage) == ([], whole.usage)
    assert first.lookonce == whole.lookonce
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert len({chunk.id for chunk in [first, *chunks, last]}) == 1
    choices = [chunk.choices[0] for chunk in [first, *chunks]]
    assert [choice.index for choice in choices if choice.delta.role == "assistant"] == list(range(8))
    for expected in whole.choices:
        own = [choice for choice in choices if choice.index == expected.index]
        assert "".join(choice.delta.content or "" for choice in own) == expected.message.content
        assert [choice.finish_reason for choice in own if choice.finish_reason] == [expected.finish_reason]
        assert own[-1].finish_reason
    spoken = [choice.index for choice in choices if choice.delta.content]
    turns = sum(a != b for a, b in itertools.pairwise(spoken))
    assert turns > 2 * len(whole.choices)  # one after the other would be seven


def test_a_client_that_leaves_stops_every_answer(server, client):
    gone = server.metric("requests_total", status="499")
    stream = ask(client, "xyzzy", None, n=8, stream=True, max_tokens=1000, logit_bias={str(EOS): -100})
    next(iter(stream))
    assert server.metric("queue_depth") > 1
    stream.close()
    server.wait_for("queue_depth", 0, seconds=10)
    server.wait_for("requests_total", gone + 1, status="499")


# --- log-probabilities ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vocabulary() -> dict[str, int]:
    tokenizer = AutoProcessor.from_pretrained(CHECKPOINT).tokenizer
    return {tokenizer.decode([token]): token for token in range(len(tokenizer))}


def expected_logprobs(question: str, image, tokens: list[int]) -> torch.Tensor:
    """`[tokens, vocabulary]`: the model's own, by one forward over the prompt and the answer."""
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    model = LlavaForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    parts = ([{"type": "image"}] if image else []) + [{"type": "text", "text": question}]
    prompt = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    inputs = processor(text=prompt, images=image, return_tensors="pt", add_special_tokens=False)
    ids = torch.cat([inputs.pop("input_ids"), torch.tensor([tokens])], 1)
    inputs.pop("attention_mask")
    with torch.no_grad():
        logits = model(**inputs, input_ids=ids, use_cache=False).logits
    return logits[0, -len(tokens) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize(
    ("question", "seed", "options"),
    [
        ("Describe the image.", 109, {"temperature": 1.2, "seed": 1, "presence_penalty": 1, "top_p": 0.9}),
        ("Describe the image.", None, {"frequency_penalty": 2}),
    ],
)
def test_log_probabilities_are_the_models(client, vocabulary, question, seed, options):
    image = picture_url(seed) if seed else None
    completion = ask(client, question, image, logprobs=True, top_logprobs=5, **options)
    choice = completion.choices[0]
    content = choice.logprobs.content
    assert "".join(one.token for one in content) == choice.message.content
    ended = choice.finish_reason == "stop"  # by a token that is not listed
    assert len(content) == completion.usage.completion_tokens - ended > 3
    pixels = Image.fromarray(render(scene(seed))) if seed else None
    expected = expected_logprobs(question, pixels, [vocabulary[one.token] for one in content])
    for one, row in zip(content, expected, strict=True):
        assert one.logprob == pytest.approx(float(row[vocabulary[one.token]]), abs=1e-3)
        likeliest = row.topk(5)
        assert [vocabulary[top.token] for top in one.top_logprobs] == likeliest.indices.tolist()
        assert [top.logprob for top in one.top_logprobs] == pytest.approx(likeliest.values.tolist(), abs=1e-3)


@pytest.mark.parametrize("count", [None, 0, 1, 20])
def test_as_many_top_log_probabilities_as_asked_for(client, context, count):
    options = {} if count is None else {"top_logprobs": count}
    for one in ask(client, FIND, context, logprobs=True, **options).choices[0].logprobs.content:
        values = [top.logprob for top in one.top_logprobs]
        assert len(values) == (count or 0)
        assert values == sorted(values, reverse=True)
        assert not values or (one.top_logprobs[0].token, values[0]) == (one.token, one.logprob)  # greedy
        assert sum(map(math.exp, values)) <= 1 + 1e-5
        for entry in (one, *one.top_logprobs):
            assert entry.bytes == list(entry.token.encode())


def test_log_probabilities_come_only_where_asked_for(client, context):
    for options in ({}, {"logprobs": False}):
        assert ask(client, FIND, context, **options).choices[0].logprobs is None
        assert all(chunk.choices[0].logprobs is None for chunk in ask(client, FIND, context, stream=True, **options))


def test_each_streamed_token_has_its_log_probability(client, context):
    options = {"n": 8, "seed": 7, "logprobs": True, "top_logprobs": 2, "stop": ["large red"], **VARIED}
    whole = ask(client, "What is there?", context, **options)
    assert sum(len(choice.logprobs.content) for choice in whole.choices) > 10
    chunks = list(ask(client, "What is there?", context, stream=True, **options))
    for expected in whole.choices:
        streamed = [c.choices[0].logprobs for c in chunks if c.choices[0].index == expected.index]
        assert [one for logprobs in streamed if logprobs for one in logprobs.content] == expected.logprobs.content


def test_a_part_of_a_character_has_no_bytes_of_its_own(client):
    """The bundled model says anything at this temperature, bytes too."""
    options = {"logit_bias": {str(EOS): -100}, "max_tokens": 60, "temperature": 2, "seed": 1, "n": 8}
    choices = ask(client, "xyzzy", None, logprobs=True, **options).choices
    entries = [entry for choice in choices for entry in choice.logprobs.content]
    assert {entry.bytes is None for entry in entries} == {True, False}
    assert all((entry.bytes is None) == ("\ufffd" in entry.token) for entry in entries)


# --- penalties --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_a_penalty_makes_repeating_rarer_and_a_negative_one_more_frequent(client, name):
    """What it says without an image and an end is a word again and again; the arithmetic is tested on the engine."""
    options = {"logit_bias": {str(EOS): -100}, "max_tokens": 40}
    words = [len(set(texts_of(ask(client, "Hi", None, **options, **{name: by}))[0].split())) for by in (-2, 0, 2)]
    assert words[0] < words[1] < words[2], words
    assert texts_of(ask(client, "Hi", None, **options, **{name: 0})) == texts_of(ask(client, "Hi", None, **options))


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_a_penalty_counts_on_a_hit_too(client, context, name):
    """The end is kept away, since an answer of one word has nothing to repeat."""
    options = {"logit_bias": {str(EOS): -100}, "max_tokens": 30}
    plain, penalised = (texts_of(ask(client, "What is there?", context, **options, **{name: by})) for by in (0, 2))
    assert plain != penalised

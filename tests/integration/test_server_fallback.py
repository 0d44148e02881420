"""Asking again of the whole image, through OpenAI's client, from a server that keeps images and never is sure."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from lookonce_server.auth.tenants import key_hash, new_key

from ..support.pictures import find_question, messages, picture_url
from ..support.redis_server import RedisServer
from ..support.server_process import MODEL, LookonceServer

SEED = 131
FIND = find_question(SEED)
NEVER_SURE = ("--fallback-margin", "inf", "--keep-images")


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> tuple[Path, list[str]]:
    """The file of keys, and the keys of two tenants."""
    keys = [new_key(), new_key()]
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    lines = [f'"{name}" = ["sha256:{key_hash(key)}"]' for name, key in zip(("one", "other"), keys, strict=True)]
    path.write_text("\n".join(["[tenants]", *lines]))
    return path, keys


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as store:
        yield store


@pytest.fixture(scope="module")
def server(keys, redis) -> Iterator[LookonceServer]:
    with LookonceServer(*NEVER_SURE, "--api-keys", str(keys[0]), "--store", redis.url) as running:
        yield running


@pytest.fixture(scope="module")
def clients(server, keys) -> Iterator[list[openai.OpenAI]]:
    both = [server.openai(api_key=key) for key in keys[1]]
    yield both
    for client in both:
        client.close()


def ask(client: openai.OpenAI, image: str, stream: bool = False, **wishes):
    return client.chat.completions.create(
        model=MODEL,
        messages=messages(FIND, image),
        max_tokens=24,
        stream=stream,
        extra_body={"lookonce": wishes},
    )


def test_several_images_are_asked_again_if_all_are_there(clients):
    """By their ids too, since this server keeps them."""
    client, _ = clients
    parts = [{"type": "image_url", "image_url": {"url": picture_url(seed)}} for seed in (SEED + 1, SEED + 2)]

    def several(*images: dict, **wishes):
        chat = [{"role": "user", "content": [*images, {"type": "text", "text": FIND}]}]
        return client.chat.completions.create(
            model=MODEL, messages=chat, max_tokens=24, extra_body={"lookonce": wishes}
        )

    full = several(*parts, cache="bypass").choices[0].message.content
    ids = [one["context_id"] for one in several(*parts, on_miss="compress").lookonce["images"]]
    named = [{"type": "image_url", "image_url": {"url": f"lookonce:{context_id}"}} for context_id in ids]
    for images in (parts, named, [named[0], parts[1]]):
        again = several(*images, fallback=True)
        assert (again.lookonce["cache"], again.lookonce["fallback"]) == ("hit", "full_pass")
        assert again.choices[0].message.content == full
    for context_id in ids:
        client.delete(f"/contexts/{context_id}", cast_to=object)


def test_asked_again_with_its_image_by_its_id_streamed_and_gone_on_from(server, clients, redis):
    client, other = clients
    url = picture_url(SEED)
    before = server.metric("fallbacks_total", outcome="full_pass")
    full = ask(client, url, cache="bypass").choices[0].message.content
    context_id = ask(client, url, on_miss="compress").lookonce["context_id"]
    for image in (url, f"lookonce:{context_id}"):
        answer = ask(client, image, fallback=True)
        assert (answer.lookonce["cache"], answer.lookonce["fallback"]) == ("hit", "full_pass")
        assert answer.choices[0].message.content == full
        chunks = list(ask(client, image, stream=True, fallback=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == full
        assert chunks[0].lookonce["fallback"] == "full_pass"
    part = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": FIND}]
    asked = [{"role": "user", "content": part}]
    wishes = {"extra_body": {"lookonce": {"fallback": True}}}
    first = client.responses.create(model=MODEL, input=asked, **wishes)
    then = client.responses.create(model=MODEL, input=FIND, previous_response_id=first.id, **wishes)
    assert [response.lookonce["fallback"] for response in (first, then)] == ["full_pass"] * 2
    assert first.output_text == full
    assert server.metric("fallbacks_total", outcome="full_pass") == before + 6

    with pytest.raises(openai.NotFoundError):
        ask(other, f"lookonce:{context_id}", fallback=True)
    with pytest.raises(openai.NotFoundError):
        other.delete(f"/contexts/{context_id}", cast_to=object)
    assert ask(client, f"lookonce:{context_id}", fallback=True).lookonce["fallback"] == "full_pass"

    client.delete(f"/contexts/{context_id}", cast_to=object)
    for response in (first, then):
        client.responses.delete(response.id)
    with redis.client() as inside:
        assert inside.keys("lookonce:1:record:*") == []

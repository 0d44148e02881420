"""lookonce's own clients and command with several images, against a real server."""

import asyncio
import io
import subprocess
import sys
from contextlib import ExitStack

import pytest
from PIL import Image

import lookonce
from lookonce_scenes.world import render

from ..support.blocking import Blocking
from ..support.pictures import png, scene
from ..support.server_process import LookonceServer, environment

ACROSS = "How many objects are there in all images?"


@pytest.fixture(scope="module")
def server(embedded: LookonceServer) -> LookonceServer:
    """To clients all engines are alike."""
    return embedded


@pytest.fixture(params=[lookonce.Client, lookonce.AsyncClient], ids=["sync", "async"])
def looking(request, server):
    """A client of either kind."""
    with ExitStack() as stack:
        client = request.param(server.url)
        if request.param is lookonce.AsyncClient:
            client = Blocking(client, stack.enter_context(asyncio.Runner()))
        yield stack.enter_context(client)


@pytest.fixture
def new(request):
    """Files of their own for each kind of client: the same pixels, in files of another length."""
    end = b"" if request.node.callspec.params["looking"] is lookonce.Client else b"\0"
    return lambda *seeds: [png(seed) + end for seed in seeds]


def test_each_image_is_sent_once_whatever_its_company_and_its_form(server, looking, new, tmp_path):
    first, second, third = new(801, 802, 803)
    (tmp_path / "b.png").write_bytes(second)
    pages = looking.images(first, tmp_path / "b.png")
    assert [usage.cache for usage in pages.ask(ACROSS).images] == ["miss", "miss"]
    server.wait_for("queue_depth", 0)
    answer = pages.ask(ACROSS)
    assert (answer.hit, answer.tier, answer.context_id) == (True, "memory", None)
    assert [usage.image_tokens for usage in answer.images] == [196, 196]
    assert answer.context_tokens == sum(usage.context_tokens for usage in answer.images) == answer.cached_tokens
    mixed = looking.images(third, f"lookonce:{pages.images[1].context_id}", pages.images[0])
    assert [usage.cache for usage in mixed.ask(ACROSS).images] == ["miss", "hit", "hit"]
    server.wait_for("queue_depth", 0)
    assert mixed.ask(ACROSS).hit
    assert looking.saved.bytes_not_sent > 5 * len(first)


def test_an_answer_is_that_of_the_same_contexts_in_any_client(looking, new, server):
    """By ids, by pixels and by a picture in memory: one conversation, one answer, that of OpenAI's client."""
    pages = looking.images(*new(804, 805))
    contexts = pages.prepare()
    with server.openai() as openai:
        content = [{"type": "image_url", "image_url": {"url": f"lookonce:{one.id}"}} for one in contexts]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": ACROSS}]}]
        expected = openai.chat.completions.create(model="lookonce-scenes", messages=messages)
    assert pages.ask(ACROSS).text == expected.choices[0].message.content
    with pages.stream(ACROSS) as stream:
        assert "".join(stream) == expected.choices[0].message.content
    assert stream.answer.images == pages.ask(ACROSS).images
    assert {answer.text for answer in pages.ask_all(3 * [ACROSS])} == {expected.choices[0].message.content}


def test_one_context_that_is_gone_is_made_again_from_its_own_pixels(looking, new):
    pages = looking.images(*new(806, 807))
    pages.prepare()
    not_sent = pages.ask(ACROSS).images and pages.saved.bytes_not_sent
    looking.delete_context(pages.images[1].context_id)
    answer = pages.ask(ACROSS, on_miss="compress")
    assert [usage.cache for usage in answer.images] == ["hit", "miss"]
    assert not_sent < pages.saved.bytes_not_sent < 2 * not_sent
    assert pages.ask(ACROSS).hit
    lost = looking.images(f"lookonce:{pages.images[0].context_id}", pages.images[1])
    looking.delete_context(pages.images[0].context_id)
    with pytest.raises(lookonce.ContextNotFoundError, match=pages.images[0].context_id):
        lost.ask(ACROSS)


def test_an_agents_screenshots_cost_one_new_image_a_turn(server, looking, new):
    chat = looking.images(on_miss="compress").chat(max_tokens=8)
    misses = {"misses": ("context_lookups_total", {"result": "miss", "tier": "memory"})}
    before = server.metrics(**misses)["misses"]
    for count, picture in enumerate(new(808, 809, 808, 810), start=1):
        answer = chat.ask("What is there?", picture)
        assert [usage.cache for usage in answer.images].count("miss") == (1 if count != 3 else 0)
    assert server.metrics(**misses)["misses"] - before == 3
    assert len(answer.images) == 3
    picture = Image.fromarray(render(scene(811 + isinstance(looking, Blocking))))  # new to the server
    with chat.stream("And now?", picture) as stream:
        list(stream)
    assert [usage.cache for usage in stream.answer.images] == ["hit", "hit", "hit", "miss"]
    assert len(chat.turns[-1].images[0].context_id) == 64


def test_more_images_than_the_server_takes_are_refused_by_it(looking, new):
    pages = looking.images(*(one + bytes([i]) for i in range(17) for one in new(812)))
    with pytest.raises(lookonce.BadRequestError, match="17 different images; this server accepts at most 16"):
        pages.ask(ACROSS)


def test_the_command_asks_about_several(server, tmp_path):
    paths = []
    for seed in (813, 814):
        paths.append(tmp_path / f"{seed}.png")
        Image.open(io.BytesIO(png(seed))).save(paths[-1])
    words = [sys.executable, "-m", "lookonce", "ask", *map(str, paths), "--server", server.url, "--", ACROSS, ACROSS]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment(), check=True)
    assert done.stdout.count(f"> {ACROSS}\n") == 2
    assert "hit (memory) · 34 tokens in context · 392 saved" in done.stdout
    assert "2 questions, 1 hit" in done.stdout


def test_a_video_is_one_image_with_frames(server, looking):
    colors = ("red", "green", "blue", "teal" if isinstance(looking, Blocking) else "white")
    frames = [Image.new("RGB", (112, 112), color) for color in colors]
    clip = looking.video(frames)
    first = clip.ask("What happens?")
    assert [usage.cache for usage in first.images] == ["miss"]
    server.wait_for("queue_depth", 0)
    answer = clip.ask("What happens?")
    assert (answer.hit, answer.images[0].image_tokens) == (True, 4 * 196)
    assert clip.saved.bytes_not_sent > 0
    context = clip.prepare()
    assert (context.id, context.frames, clip.tokens().grid) == (answer.context_id, 4, (4, 14, 14))
    assert looking.video(frames, max_frames=2).prepare().frames == 2
    both = looking.images(clip, frames[0]).ask("Which one is red?", on_miss="compress")
    assert (both.images[0].cache, len(both.images)) == ("hit", 2)
    assert looking.images(f"lookonce:{context.id}", clip).ask("Which one is red?").hit

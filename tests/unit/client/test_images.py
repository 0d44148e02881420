"""Several images: each is sent by its pixels until its context is known, and again where the server lost it."""

import base64
import threading

import pytest
from PIL import Image

import lookonce
from lookonce import ContextNotFoundError, ImageSourceError, Saved, Turn

from .contract_server import PNG, Failure, id_of, urls

PICTURES = [PNG + bytes([i]) for i in range(4)]


def data_url(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


IDS = [id_of(data_url(image)) for image in PICTURES]
BY_ID = [f"lookonce:{context_id}" for context_id in IDS]
BY_PIXELS = [data_url(image) for image in PICTURES]


def sent(server) -> list[list[str]]:
    """The images of each chat request."""
    return [urls(body) for body in server.bodies()]


def test_pixels_first_then_only_the_contexts(server, client):
    pages = client.images(*PICTURES[:3])
    first, second = pages.ask("Which is red?"), pages.ask("And green?")
    assert sent(server) == [BY_PIXELS[:3], BY_ID[:3]]
    assert (first.hit, second.hit, second.context_id) == (False, True, None)
    assert [(use.context_id, use.cache) for use in second.images] == [(context_id, "hit") for context_id in IDS[:3]]
    assert [page.context_id for page in pages.images] == IDS[:3]
    content = server.bodies()[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == 3 * ["image_url"] + ["text"]


def test_every_kind_of_image_together(server, client, tmp_path):
    path = tmp_path / "b.png"
    path.write_bytes(PICTURES[1])
    picture = Image.new("RGB", (4, 3), "red")
    known = client.image(PICTURES[3])
    known.prepare()
    server.contexts.add(IDS[2])
    pages = client.images(PICTURES[0], str(path), path, BY_ID[2], known, "https://example.org/a.png", picture)
    pages.ask("what?")
    (sent_urls,) = sent(server)
    assert sent_urls[:6] == [BY_PIXELS[0], *2 * [BY_PIXELS[1]], BY_ID[2], BY_ID[3], "https://example.org/a.png"]
    assert client.images(picture, picture.copy()).ask("same?").images == client.image(picture).ask("what?").images
    assert pages.images[4].context_id == known.context_id == IDS[3]


def test_an_image_is_known_to_all_sessions_that_have_it(server, client):
    a, b = client.image(PICTURES[0]), client.image(PICTURES[1])
    client.images(a, b).ask("Which?")
    assert (a.context_id, b.context_id) == (IDS[0], IDS[1])
    client.images(b, PICTURES[2], a).ask("Which?")
    a.ask("what?")
    assert sent(server)[1:] == [[BY_ID[1], BY_PIXELS[2], BY_ID[0]], [BY_ID[0]]]


def test_the_image_that_is_lost_is_sent_again_and_no_other(server, client):
    pages = client.images(*PICTURES)
    pages.ask("what?")
    server.contexts.remove(IDS[2])
    assert pages.ask("what else?").text == "red"
    healed = [BY_ID[0], BY_ID[1], BY_PIXELS[2], BY_ID[3]]
    assert sent(server) == [BY_PIXELS, BY_ID, healed]
    assert pages.ask("and?").hit


def test_where_more_are_lost_all_are_sent_again(server, client):
    """One retry for the one that is named, and one more for the rest: not one an image."""
    pages = client.images(*PICTURES)
    pages.ask("what?")
    server.contexts -= {*IDS[1:]}
    assert pages.ask("what else?").text == "red"
    assert sent(server)[2:] == [[BY_ID[0], BY_PIXELS[1], BY_ID[2], BY_ID[3]], BY_PIXELS]
    assert pages.ask("and?").hit


def test_a_lost_image_that_has_no_pixels_is_an_error_at_once(server, client):
    pages = client.images(PICTURES[0], BY_ID[1])
    server.contexts.add(IDS[1])
    pages.ask("what?")
    server.contexts.clear()
    server.contexts.add(IDS[0])
    with pytest.raises(ContextNotFoundError, match=IDS[1]):
        pages.ask("what else?")
    assert len(sent(server)) == 2


@pytest.mark.parametrize("code", ["store_unavailable", "context_lost"])
def test_contexts_out_of_reach_are_replaced_by_the_pixels_at_once(server, connect, code):
    pages = connect().images(*PICTURES[:2])
    pages.ask("what?")
    server.failures.append(Failure(503, code, retry_after="1000"))
    assert pages.ask("what else?").text == "red"
    assert sent(server)[1:] == [BY_ID[:2], BY_PIXELS[:2]]


def test_savings_are_of_all_images_together(server, client):
    pages = client.images(*PICTURES[:2])
    pages.ask("what?")
    pages.ask("what else?")
    size = len(BY_PIXELS[0]) + len(BY_PIXELS[1])
    assert pages.saved == client.saved == Saved(2, 1, 140, 90 + 150, size, images=4, image_hits=2)
    assert pages.images[0].saved == Saved()
    server.contexts.remove(IDS[1])
    pages.ask("and?")
    assert pages.saved.bytes_not_sent == size + len(BY_PIXELS[0])
    assert (pages.saved.hits, pages.saved.images, pages.saved.image_hits) == (1, 6, 3)


def test_with_a_fallback_or_a_bypass_all_pixels_that_are_known_are_sent(server, client):
    server.contexts.add(IDS[2])
    pages = client.images(*PICTURES[:2], BY_ID[2])
    pages.ask("what?")
    assert pages.ask("what?", fallback=True).fallback == "full_pass"
    pages.images[0].ask("what?", cache="bypass")
    assert sent(server)[1:] == [[*BY_PIXELS[:2], BY_ID[2]], BY_PIXELS[:1]]


def test_a_batch_sends_the_pixels_once(server, client):
    answers = client.images(*PICTURES[:2]).ask_all(["a?", "b?", "c?"])
    assert [answer.hit for answer in answers] == [False, True, True]
    assert sent(server) == [BY_PIXELS[:2], BY_ID[:2], BY_ID[:2]]


def test_a_stream_names_the_contexts_too(server, client):
    pages = client.images(*PICTURES[:2])
    server.held = True
    with pages.stream("what?") as stream:
        next(stream)
        assert [page.context_id for page in pages.images] == IDS[:2]  # before its end, for those who ask meanwhile
        server.go_on.set()
        list(stream)
    assert [use.context_id for use in stream.answer.images] == IDS[:2]
    list(pages.stream("what else?"))
    assert sent(server) == [BY_PIXELS[:2], BY_ID[:2]]


def test_prepare_and_forget_are_of_each(server, client):
    with client.images(*PICTURES[:2], forget=True) as pages:
        assert [context.id for context in pages.prepare()] == IDS[:2]
        assert pages.ask("what?").hit
        assert server.contexts == {*IDS[:2]}
    assert server.contexts == set()
    server.contexts.add(IDS[0])
    pages.prepare()
    server.contexts.remove(IDS[1])
    assert pages.forget() == 1


def test_the_same_image_twice_is_one(server, client):
    pages = client.images(PICTURES[0], PICTURES[1], PICTURES[0])
    assert len(pages.ask("what?").images) == 2
    assert pages.ask("what else?").hit
    assert sent(server)[1] == [BY_ID[0], BY_ID[1], BY_ID[0]]
    assert pages.saved.bytes_not_sent == len(BY_PIXELS[0]) + len(BY_PIXELS[1])


def test_a_context_that_turns_out_to_be_of_another_image_there_mixes_nothing_up(server, client):
    """The pixels of an image that stands there by its id are no image of their own: the new ids fit no count."""
    server.contexts.add(IDS[0])
    pages = client.images(BY_ID[0], PICTURES[0], PICTURES[1])
    assert len(pages.ask("what?").images) == 2
    assert [page.context_id for page in pages.images] == [IDS[0], None, None]
    assert len(pages.ask("what else?").images) == 2


# --- conversations to which images come ------------------------------------------------------------------------------


def test_an_agents_screenshots_are_sent_once_each(server, client):
    chat = client.images().chat()
    assert chat.ask("Ready?").cache == "none"
    for i, picture in enumerate(PICTURES):
        chat.ask(f"step {i}?", picture)
    assert sent(server) == [[], *([*BY_ID[:i], BY_PIXELS[i]] for i in range(4))]
    last = server.bodies()[-1]["messages"]
    assert [message["role"] for message in last] == ["user", "assistant"] * 4 + ["user"]
    assert [one if isinstance(one, str) else one[-1]["text"] for one in (m["content"] for m in last[::2])] == [
        "Ready?",
        *(f"step {i}?" for i in range(4)),
    ]
    assert chat.turns[2] == Turn("step 1?", "red", chat.turns[2].images)
    assert chat.turns[2].images[0].context_id == IDS[1]


def test_dropping_a_turn_drops_its_images_and_those_of_the_session_stay(server, client):
    chat = client.images(PICTURES[0]).chat()
    chat.ask("what?", PICTURES[1])
    chat.ask("and?", client.image(PICTURES[2]), PICTURES[3])
    del chat.turns[0]
    chat.ask("again?")
    assert sent(server)[-1] == [BY_ID[0], BY_ID[2], BY_ID[3]]
    assert len(server.bodies()[-1]["messages"][0]["content"]) == 4


def test_the_same_screenshot_again_is_not_sent_again(server, client):
    chat = client.images().chat()
    for picture in (PICTURES[0], PICTURES[1], PICTURES[0], PICTURES[2]):
        list(chat.stream("what?", picture))
    assert sent(server)[2:] == [[BY_ID[0], BY_ID[1], BY_ID[0]], [BY_ID[0], BY_ID[1], BY_ID[0], BY_PIXELS[2]]]
    assert chat.ask("and?").hit


def test_a_lost_screenshot_of_an_earlier_turn_is_sent_again(server, client):
    chat = client.images().chat()
    for picture in PICTURES[:3]:
        chat.ask("what?", picture)
    server.contexts.remove(IDS[0])
    chat.ask("and?", PICTURES[3])
    assert sent(server)[-2:] == [[*BY_ID[:3], BY_PIXELS[3]], [BY_PIXELS[0], *BY_ID[1:3], BY_PIXELS[3]]]


def test_an_image_of_a_question_that_fails_is_not_remembered(server, client):
    chat = client.image(PICTURES[0]).chat()
    server.failures.append(Failure(400))
    with pytest.raises(lookonce.BadRequestError):
        chat.ask("what?", PICTURES[1])
    with chat.stream("what?", PICTURES[1]) as stream:
        next(stream)
    assert chat.turns == []
    chat.ask("what?")
    assert sent(server)[-1] == [BY_ID[0]]


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_is_no_image_is_named(client):
    for source, kind in ((3, "int"), (client.images(), "")):
        with pytest.raises(ImageSourceError, match=f"not an image: .*{kind}.*a path, bytes, a URL or a picture"):
            client.images(PICTURES[0], source)
    with pytest.raises(ImageSourceError, match="cannot write the picture as PNG"):
        client.images(Image.new("HSV", (1, 1)))
    with pytest.raises(TypeError, match="unknown option 'tt1'"):
        client.images(tt1=5)


def test_images_of_another_client_or_with_another_context_are_refused(connect, client):
    with pytest.raises(ValueError, match="the image is another client's"):
        client.images(connect().image(PICTURES[0]))
    kept = client.image(PICTURES[0], retention=0.1)
    with pytest.raises(ValueError, match=r"retention is None here and 0\.1 for one of the images"):
        client.images(kept)
    with pytest.raises(ValueError, match=r"describe_prompt is 'Look\.' here and None"):
        client.images(describe_prompt="Look.").chat().ask("what?", client.image(PICTURES[1]))
    client.images(kept, retention=0.1, ttl=5, on_miss="compress").ask("what?")


def test_threads_may_share_a_session(server):
    with lookonce.Client(server.url) as client:
        pages = client.images(*PICTURES)
        threads = [threading.Thread(target=pages.ask, args=("what?",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pages.saved.questions == 8
        assert pages.ask("what?").hit


def test_a_server_that_takes_one_image_names_its_context_all_the_same(server, client, png, context_id):
    server.has_images = False
    image = client.image(png)
    image.ask("what?")
    (use,) = image.ask("what else?").images
    assert (use.context_id, use.cache, image.context_id) == (context_id, "hit", context_id)

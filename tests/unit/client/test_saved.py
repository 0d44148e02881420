"""What was saved is counted for each image, and for all."""

import base64
from concurrent.futures import ThreadPoolExecutor

import pytest

import lookonce
from lookonce import Answer, Saved
from lookonce._server import SavedCounter

SIZE = len("data:image/png;base64,")


def answer(cache: str, prompt: int, cached: int, saved: int) -> Answer:
    return Answer("red", cache, None, 0, saved, None, prompt, cached, 1, 0.1)


def test_of_an_image_and_of_all_images(client, png):
    size = SIZE + len(base64.b64encode(png))
    image = client.image(png)
    assert (image.saved, image.saved.share) == (Saved(), 0.0)
    image.ask("what?")
    assert image.saved == Saved(1, 0, 0, 90, 0, 1, 0)
    image.ask("what else?")
    list(image.stream("and?"))
    assert image.saved == Saved(3, 2, 140, 90 + 2 * 80, 2 * size, 3, 2)
    assert image.saved.share == pytest.approx(140 / 250)
    other = client.image(png)
    other.ask("what?")
    assert other.saved == Saved(1, 1, 70, 80, 0, 1, 1)
    assert client.saved == Saved(4, 3, 210, 330, 2 * size, 4, 3)


def test_a_failed_question_saves_nothing(server, client, png):
    image = client.image(png)
    image.prepare()
    server.refuse = 400, b"{}"
    with pytest.raises(lookonce.BadRequestError):
        image.ask("what?")
    assert client.saved == Saved()


def test_pixels_that_were_sent_in_the_end_are_not_saved(server, client, png):
    image = client.image(png)
    image.prepare()
    server.contexts.clear()
    image.ask("what?")
    assert image.saved == Saved(1, 0, 0, 90, 0, 1, 0)


@pytest.mark.parametrize("source", ["lookonce:{id}", "https://example.org/a.png"])
def test_pixels_that_nobody_had_are_not_counted(server, client, context_id, source):
    server.contexts.add(context_id)
    image = client.image(source.format(id=context_id))
    image.ask("what?")
    image.ask("what else?")
    assert (image.saved.hits, image.saved.bytes_not_sent) == (2, 0)


def test_what_an_engines_own_cache_had_is_part_of_the_ordinary_way():
    counter = SavedCounter()
    counter.add(answer("miss", prompt=90, cached=64, saved=0), 0)
    assert counter.total == Saved(1, 0, 0, 90, 0)


def test_threads_lose_nothing():
    whole = SavedCounter()
    parts = [SavedCounter(whole), SavedCounter(whole)]
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda i: parts[i % 2].add(answer("hit", 30, 20, 70), 5), range(4000)):
            pass
    assert parts[0].total == parts[1].total == Saved(2000, 2000, 140_000, 160_000, 10_000)
    assert whole.total == Saved(4000, 4000, 280_000, 320_000, 20_000)

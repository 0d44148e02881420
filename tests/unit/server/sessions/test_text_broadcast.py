"""A description on its way: whoever follows it, from whenever on, gets the same text."""

import asyncio

import pytest

from lookonce_server.sessions.text_broadcast import TextBroadcast

pytestmark = pytest.mark.anyio


async def followed(progress: TextBroadcast) -> list[str]:
    return [text async for text in progress.follow()]


async def test_each_follower_gets_the_whole_text_whenever_it_comes():
    progress = TextBroadcast()
    early = asyncio.create_task(followed(progress))
    await asyncio.sleep(0)
    for text in ("", " A", " small", " ", "\n"):
        progress.hear(text)
        await asyncio.sleep(0)
    late = asyncio.create_task(followed(progress))
    await asyncio.sleep(0)
    progress.hear("square. ")
    progress.end()
    assert await early == ["", "A", " small", " \nsquare."]
    assert await late == ["A small", " \nsquare."]
    assert await followed(progress) == ["A small \nsquare."]


async def test_what_never_begins_says_nothing():
    progress = TextBroadcast()
    waiting = asyncio.create_task(followed(progress))
    await asyncio.sleep(0)
    progress.end()
    assert await waiting == []


async def test_what_begins_and_says_nothing_has_begun():
    progress = TextBroadcast()
    progress.hear("")
    progress.end()
    assert progress.begun
    assert await followed(progress) == [""]


async def test_one_who_leaves_disturbs_nobody():
    progress = TextBroadcast()
    leaving, staying = (asyncio.create_task(followed(progress)) for _ in range(2))
    progress.hear("A")
    await asyncio.sleep(0)
    leaving.cancel()
    progress.hear(" star.")
    progress.end()
    assert "".join(await staying) == "A star."

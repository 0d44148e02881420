"""Every subscriber gets the whole text of a describe pass, whenever it subscribes."""

import asyncio

import pytest

from lookonce_server.sessions.text_broadcast import TextBroadcast

pytestmark = pytest.mark.anyio


async def read_all(broadcast: TextBroadcast) -> list[str]:
    return [text async for text in broadcast.subscribe()]


async def test_each_subscriber_gets_the_whole_text_whenever_it_comes():
    broadcast = TextBroadcast()
    early = asyncio.create_task(read_all(broadcast))
    await asyncio.sleep(0)
    for text in ("", " A", " small", " ", "\n"):
        broadcast.publish(text)
        await asyncio.sleep(0)
    late = asyncio.create_task(read_all(broadcast))
    await asyncio.sleep(0)
    broadcast.publish("square. ")
    broadcast.close()
    assert await early == ["", "A", " small", " \nsquare."]
    assert await late == ["A small", " \nsquare."]
    assert await read_all(broadcast) == ["A small \nsquare."]


async def test_what_never_begins_says_nothing():
    broadcast = TextBroadcast()
    waiting = asyncio.create_task(read_all(broadcast))
    await asyncio.sleep(0)
    broadcast.close()
    assert await waiting == []


async def test_what_begins_and_says_nothing_has_begun():
    broadcast = TextBroadcast()
    broadcast.publish("")
    broadcast.close()
    assert broadcast.has_started
    assert await read_all(broadcast) == [""]


async def test_a_subscriber_that_leaves_disturbs_none():
    broadcast = TextBroadcast()
    leaving, staying = (asyncio.create_task(read_all(broadcast)) for _ in range(2))
    broadcast.publish("A")
    await asyncio.sleep(0)
    leaving.cancel()
    broadcast.publish(" star.")
    broadcast.close()
    assert "".join(await staying) == "A star."

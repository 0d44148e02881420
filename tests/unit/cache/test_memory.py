"""What only the store in memory does; all that stores have in common is tested on each of them together."""

import pytest

from lookonce_cache import MemoryStore

from .samples import context_key, make_context

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_using_or_deleting_what_a_page_showed_shows_nothing_twice(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.0)  # a clock too coarse to tell them apart
    store = MemoryStore()
    for name in range(9):
        await store.put(make_context(name))
    shown, after = [], None
    while True:
        page = await store.list("acme", limit=2, after=after)
        shown += [info.key for info in page.infos]
        for info in page.infos:
            await store.get(info.key)
        await store.delete(page.infos[-1].key)
        after = page.next
        if after is None:
            break
    assert sorted(shown) == sorted(map(context_key, range(9)))

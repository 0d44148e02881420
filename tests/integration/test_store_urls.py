"""A store reached in another way is the same store: its suite, in short, for each variant of a URL."""

import pytest

from lookonce_cache import open_store

from ..support.cache_samples import assert_same, context_key, make_context
from .stores import VARIANTS, everything, url_of

pytestmark = pytest.mark.anyio

KEY = context_key()


@pytest.mark.parametrize(
    "variant", [pytest.param(v, marks=pytest.mark.extended) if "cluster" in v else v for v in VARIANTS]
)
async def test_a_context_is_put_found_listed_leased_and_deleted(request, variant):
    store = open_store(url_of(variant, request.getfixturevalue), ttl=60)
    try:
        await store.ping()
        lease = await store.lease(KEY, 60)
        assert await store.state(KEY) == "leased"
        await store.put(make_context(), lease)
        await store.put(make_context("other"))
        assert_same((await store.get(KEY)).context, make_context())
        found, touched, description, state, ids, count = await everything(store, KEY)
        assert (found, touched, description, state, count) == (True, True, make_context().description, "kept", 2)
        assert set(ids) == {KEY.id, context_key("other").id}
        assert await store.delete(KEY) is True
        assert await everything(store, KEY) == (False, False, None, "absent", [context_key("other").id], 1)
    finally:
        await store.close()

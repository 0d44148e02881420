"""What records are stored as, and what only those in memory promise; the rest: integration/test_store_records.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookonce_cache import BlobKey, InvalidContextError, StoreObserver
from lookonce_cache.stores.blobs import MemoryBlobStore, seal, unseal

from ...support.cache_samples import hex_digest

pytestmark = pytest.mark.anyio
KEY = BlobKey("acme", hex_digest("a record"))


def key(name: object) -> BlobKey:
    return BlobKey("acme", hex_digest(name))


@given(st.binary(max_size=200))
def test_what_is_sealed_can_be_unsealed(value):
    assert unseal(KEY, seal(KEY, value)) == value


@given(st.binary(max_size=200))
def test_any_other_bytes_are_no_record(stored):
    assert unseal(KEY, stored) is None


@given(st.binary(max_size=100), st.data())
def test_a_changed_or_shortened_record_is_none(value, data):
    stored = seal(KEY, value)
    at = data.draw(st.integers(0, len(stored) - 1))
    changed = stored[:at] + bytes([stored[at] ^ data.draw(st.integers(1, 255))]) + stored[at + 1 :]
    assert unseal(KEY, changed) is None
    assert unseal(KEY, stored[:at]) is None
    assert unseal(KEY, stored + b"\0") is None


def test_a_record_is_of_its_key_alone():
    stored = seal(KEY, b"value")
    assert unseal(BlobKey("globex", KEY.id), stored) is None
    assert unseal(key("another"), stored) is None


@pytest.mark.parametrize(("tenant", "id_"), [("", "0" * 64), ("a:b", "0" * 64), ("a", "0" * 63), ("a", "G" * 64)])
def test_a_key_that_cannot_be(tenant, id_):
    with pytest.raises(InvalidContextError):
        BlobKey(tenant, id_)


async def test_the_least_recently_used_is_dropped_and_every_byte_is_counted():
    records = MemoryBlobStore(ttl=60, observer=StoreObserver(), max_bytes=3 * (512 + 100))
    for name in "abc":
        await records.write(key(name), b"x" * 100)
    assert records.used_bytes == 3 * 612
    await records.read(key("a"))
    await records.write(key("d"), b"x" * 100)
    found = {name for name in "abcd" if await records.read(key(name))}
    assert found == {"a", "c", "d"}
    await records.write(key("a"), b"")
    assert records.used_bytes == 3 * 612 - 100
    for name in "abcd":
        await records.forget(key(name))
    assert records.used_bytes == 0


async def test_what_has_expired_is_not_held(monkeypatch):
    now = 1000.0
    monkeypatch.setattr("lookonce_cache.stores.blobs.time.monotonic", lambda: now)
    records = MemoryBlobStore(ttl=10, observer=StoreObserver())
    for name in "abc":
        await records.write(key(name), b"x")
    now += 10
    assert await records.read(key("d")) is None
    assert records.used_bytes == 0


async def test_reads_put_expiry_off(monkeypatch):
    now = 1000.0
    monkeypatch.setattr("lookonce_cache.stores.blobs.time.monotonic", lambda: now)
    records = MemoryBlobStore(ttl=10, observer=StoreObserver())
    await records.write(KEY, b"x")
    for _ in range(3):
        now += 9
        assert await records.read(KEY) == b"x"
    await records.write(KEY, b"x", ttl=20)
    now += 19
    assert await records.read(KEY) == b"x"
    now += 10
    assert await records.read(KEY) is None

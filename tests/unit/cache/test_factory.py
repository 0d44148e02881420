import pytest

from lookonce_cache import CacheError, MemoryStore, RedisStore, StoreConfigError, open_store, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("1000000", 1_000_000), ("512MiB", 512 * 1024**2), ("2GiB", 2 * 1024**3), ("3 KiB", 3072)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "2GB", "1.5GiB", "GiB", "2gib", "1e9", "٣", "2GiB ", "9" * 40])
def test_bad_sizes_name_the_value_and_what_is_accepted(text):
    with pytest.raises(StoreConfigError, match=r"size: .*accepted: a whole number of bytes") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


def test_memory():
    store = open_store("memory://?max_bytes=3MiB", ttl=5)
    assert isinstance(store, MemoryStore)
    assert store.max_bytes == 3 * 1024**2
    assert open_store("memory://").max_bytes == 2 * 1024**3


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://user:pass%2Fword@localhost:6380/2?socket_timeout=3",
        "rediss://cache.example:6380/0?ssl_ca_certs=/etc/ca.pem",
        "unix:///run/redis.sock?db=1",
    ],
)
def test_redis(url):
    store = open_store(url, ttl=60)
    assert isinstance(store, RedisStore)
    assert store.tier == "redis"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "scheme: ''; accepted: memory://, redis://, rediss://, unix://"),
        ("memcached://h", "scheme: 'memcached'; accepted: memory://"),
        ("memory://host", "memory://: 'host'; accepted: parameters only"),
        ("memory://?max_bytes=2GB", "max_bytes: size: '2GB'; accepted: a whole number"),
        ("memory://?max_bytes=", "max_bytes: size: ''"),
        ("memory://?maxbytes=2GiB", "parameter: 'maxbytes'; accepted: max_bytes"),
        ("redis://h?ttl=5", "parameter: 'ttl'; accepted: client_name, db,"),
        ("redis://h?ssl_ca_certs=x", "parameter: 'ssl_ca_certs'; accepted"),
        ("redis://h?decode_responses=1", "parameter: 'decode_responses'"),
        ("redis://h/zero", "database; accepted: a number"),
        ("redis://h/0?db=x", "cannot be parsed"),
        ("redis://h:port", "cannot be parsed"),
        ("redis://[::1", "cannot be parsed"),
    ],
)
def test_bad_urls_name_what_is_wrong_and_what_is_accepted(url, message):
    with pytest.raises(StoreConfigError, match=message) as caught:
        open_store(url)
    assert isinstance(caught.value, CacheError)


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), float("nan")])
def test_bad_ttl(ttl):
    with pytest.raises(StoreConfigError, match=r"store ttl: .*; accepted: seconds above 0"):
        open_store("memory://", ttl=ttl)


@pytest.mark.parametrize(
    "url",
    ["redis://u:s3cret/x@h/0", "redis://u:s3cret@h:port", "redis://u:s3cret@h/x", "unix:///s?password=s3cret&a=1"],
)
def test_a_password_is_never_in_the_error(url):
    with pytest.raises(StoreConfigError) as caught:
        open_store(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None

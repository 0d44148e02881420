import pytest

from lookonce_cache import (
    BlobKey,
    CacheError,
    MemoryStore,
    RedisStore,
    StoreConfigError,
    check_store_url,
    open_store,
    parse_size,
)
from lookonce_cache.stores.redis.options import MAX_VALUE_BYTES, Address, RedisOptions, parse_redis_url
from lookonce_cache.stores.tiered import TieredStore


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


@pytest.mark.anyio
async def test_records_and_images_have_budgets_of_their_own_in_memory():
    store = open_store("memory://", record_bytes=2000, image_bytes=1000)
    for blobs, kept in ((store.records, 2), (store.images, 1)):
        for name in "abc":
            await blobs.write(BlobKey("acme", name * 64), b"x" * 400)
        assert [await blobs.read(BlobKey("acme", name * 64)) is not None for name in "abc"].count(True) == kept
    shared = open_store("redis://localhost")
    assert shared.images is shared.records


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://user:pass%2Fword@localhost:6380/2?socket_timeout=3",
        "rediss://cache.example:6380/0?ssl_ca_certs=/etc/ca.pem",
        "unix:///run/redis.sock?db=1",
        "redis+cluster://one:7000,two:7001,three",
        "rediss+cluster://user:password@one:7000?ssl_cert_reqs=none",
    ],
)
def test_redis(url):
    check_store_url(url)
    store = open_store(url, ttl=60)
    assert isinstance(store, RedisStore)
    assert store.tier == "redis"


def test_hot_bytes_put_a_memory_tier_before_redis():
    store = open_store("redis://localhost?hot_bytes=3MiB", ttl=60)
    assert isinstance(store, TieredStore)
    assert store.tier == "redis"


REDIS_URLS = [
    ("redis://", {"addresses": (Address("localhost", 6379),)}),
    ("redis://h:1/7", {"addresses": (Address("h", 1),), "db": 7}),
    ("redis://h/", {"addresses": (Address("h", 6379),)}),
    ("redis://[::1]:7000", {"addresses": (Address("::1", 7000),)}),
    ("redis://:p%40ss@h", {"addresses": (Address("h", 6379),), "password": "p@ss"}),
    ("redis://u@h", {"addresses": (Address("h", 6379),), "username": "u"}),
    ("redis://u:a@b:c@h", {"addresses": (Address("h", 6379),), "username": "u", "password": "a@b:c"}),
    ("unix:///a%20b.sock?db=2", {"addresses": (Address("/a b.sock", 0),), "db": 2}),
    ("unix:///s?password=p%40ss", {"addresses": (Address("/s", 0),), "password": "p@ss"}),
    ("unix://u:p@/s", {"addresses": (Address("/s", 0),), "username": "u", "password": "p"}),
    (
        "redis+cluster://u:p@h:1,[::1]:2,i",
        {
            "addresses": (Address("h", 1), Address("::1", 2), Address("i", 6379)),
            "cluster": True,
            "username": "u",
            "password": "p",
        },
    ),
    (
        "redis://h?timeout=1.5&socket_timeout=2&socket_connect_timeout=0.25&health_check_interval=0&max_connections=7"
        "&client_name=me&max_context_bytes=1MiB&hot_bytes=2MiB",
        {
            "addresses": (Address("h", 6379),),
            "timeout": 1.5,
            "socket_timeout": 2.0,
            "socket_connect_timeout": 0.25,
            "health_check_interval": 0.0,
            "max_connections": 7,
            "client_name": "me",
            "max_context_bytes": 1024**2,
            "hot_bytes": 2 * 1024**2,
        },
    ),
    ("rediss://h", {"addresses": (Address("h", 6379),), "tls": {}}),
    (
        "rediss://h?ssl_ca_certs=/ca&ssl_check_hostname=False&ssl_cert_reqs=OPTIONAL",
        {
            "addresses": (Address("h", 6379),),
            "tls": {"ssl_ca_certs": "/ca", "ssl_check_hostname": False, "ssl_cert_reqs": "optional"},
        },
    ),
]


def test_redis_options(subtests):
    for url, expected in REDIS_URLS:
        with subtests.test(repr(url)[:200]):
            assert parse_redis_url(url) == RedisOptions(**expected)


def test_redis_defaults():
    options = parse_redis_url("redis://h")
    assert options.max_context_bytes == MAX_VALUE_BYTES == 512 * 1024**2
    assert (options.timeout, options.socket_timeout, options.socket_connect_timeout) == (5, 5, 1)
    assert options.location == "h:6379/0"
    assert parse_redis_url("redis+cluster://[::1]:1,h").location == "[::1]:1,h:6379"


def test_a_password_is_not_in_the_options_representation():
    assert "s3cret" not in repr(parse_redis_url("redis://u:s3cret@h"))


BAD_URLS = [
    ("", "scheme: ''; accepted: memory://, redis://, rediss://, unix://, redis\\+cluster://, rediss\\+cluster://"),
    ("memcached://h", "scheme: 'memcached'; accepted: memory://"),
    ("memory://host", "memory://: 'host'; accepted: parameters only"),
    ("memory://?max_bytes=2GB", "max_bytes: size: '2GB'; accepted: a whole number"),
    ("memory://?max_bytes=", "max_bytes: size: ''"),
    ("memory://?maxbytes=2GiB", "parameter: 'maxbytes'; accepted: max_bytes"),
    ("redis://h?ttl=5", "parameter: 'ttl'; accepted: client_name, db,"),
    ("redis://h?ssl_ca_certs=x", "parameter: 'ssl_ca_certs'; accepted"),
    ("redis://h?decode_responses=1", "parameter: 'decode_responses'"),
    ("redis://h?hot_bytes=2GB", "parameter hot_bytes: size: '2GB'; accepted: a whole number"),
    ("redis://h?timeout=0", "parameter timeout: '0'; accepted: seconds above 0"),
    ("redis://h?timeout=nan", "parameter timeout: 'nan'; accepted: seconds above 0"),
    ("redis://h?max_connections=0", "parameter max_connections: '0'; accepted: a number above 0"),
    ("redis://h?max_connections=1.5", "parameter max_connections: '1.5'; accepted: a number above 0"),
    ("redis://h?health_check_interval=x", "health_check_interval: 'x'; accepted: seconds, or 0 for never"),
    ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs: 'maybe'; accepted: required, optional, none"),
    ("rediss://h?ssl_check_hostname=2", "ssl_check_hostname: '2'; accepted: true, false"),
    ("redis://h/zero", "database; accepted: a number"),
    ("redis://h/0?db=x", "parameter db: 'x'; accepted: a number"),
    ("redis://h:port", "address; accepted: host or host:port"),
    ("redis://h:0", "address; accepted: host or host:port"),
    ("redis://h:65536", "address; accepted: host or host:port"),
    ("redis://h,i", "address; accepted: host or host:port"),
    ("redis://[::1", "address; accepted: host or host:port"),
    ("redis://h]", "address; accepted: host or host:port"),
    ("redis://\u2100", "cannot be parsed; accepted in its address: letters, digits"),
    ("unix://run/redis.sock", "unix://: accepted: an absolute path"),
    ("unix://", "unix://: accepted: an absolute path"),
    ("redis+cluster://h/1", "database; accepted: none"),
    ("redis+cluster://h?db=1", "parameter: 'db'; accepted"),
    ("redis+cluster://h,i:x", "address; accepted: host or host:port"),
]


def test_bad_urls_name_what_is_wrong_and_what_is_accepted(subtests):
    for url, message in BAD_URLS:
        with subtests.test(repr(url)[:200]):
            for check in (check_store_url, open_store):
                with pytest.raises(StoreConfigError, match=message) as caught:
                    check(url)
                assert isinstance(caught.value, CacheError)


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), float("nan")])
def test_bad_ttl(ttl):
    with pytest.raises(StoreConfigError, match=r"store ttl: .*; accepted: seconds above 0"):
        open_store("memory://", ttl=ttl)


URLS_WITH_PASSWORDS = [
    "redis://u:s3cret/x@h/0",
    "redis://u:s3cret@h:port",
    "redis://u:s3cret@h/x",
    "redis://u:s3cret",
    "redis://u:1#s3cret@h",
    "redis://u:1?s3cret=1@h",
    "redis://u:s3cret@h?timeout=x",
    "redis+cluster://u:s3cret@h,i:x",
    "rediss://u:s3cret@[::1",
    "unix:///s?password=s3cret&a=1",
]


def test_a_password_is_never_in_the_error(subtests):
    for url in URLS_WITH_PASSWORDS:
        with subtests.test(repr(url)[:200]):
            with pytest.raises(StoreConfigError) as caught:
                open_store(url)
            assert "s3cret" not in str(caught.value)
            assert caught.value.__cause__ is None

"""From a Redis URL to where Redis is, and how to talk to it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote

from lookonce_cache.errors import StoreConfigError
from lookonce_cache.stores.urls import number, one_of, parameters, parse_size, split_url

DEFAULT_PORT = 6379
MAX_VALUE_BYTES = 512 * 1024**2  # the largest string Redis takes, unless proto-max-bulk-len says otherwise
SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")


class Address(NamedTuple):
    """Where one Redis server listens."""

    host: str  # or the path of a unix socket
    port: int  # 0 for a unix socket

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """Where Redis is, and how to talk to it. The parameters of a URL are the fields from `client_name` on.

    Attributes:
        addresses: one server, or some nodes of a cluster.
        cluster: whether it is a cluster.
        username, password: of an ACL user; None for none.
        db: number of the database.
        tls: redis-py's options for TLS; None without it.
        client_name: how connections call themselves in CLIENT LIST.
        max_connections: commands and pipelines on their way to one server at a time; others wait.
        timeout: seconds an operation may take, waiting for a connection and trying again included.
        socket_timeout: seconds sending a command, or one reply, may take.
        socket_connect_timeout: seconds connecting may take.
        health_check_interval: seconds after which an idle connection is tried before it is used; 0 for never.
        max_context_bytes: largest encoded context.
        hot_bytes: budget of the memory tier before Redis, in bytes; None for no such tier.
    """

    addresses: tuple[Address, ...]
    cluster: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    tls: Mapping[str, Any] | None = None
    client_name: str | None = None
    max_connections: int = 32
    timeout: float = 5.0
    socket_timeout: float = 5.0
    socket_connect_timeout: float = 1.0
    health_check_interval: float = 30.0
    max_context_bytes: int = MAX_VALUE_BYTES
    hot_bytes: int | None = None

    @property
    def location(self) -> str:
        """Where it is, for messages."""
        place = ",".join(map(str, self.addresses))
        return place if self.cluster else f"{place}/{self.db}"


def parse_redis_url(url: str) -> RedisOptions:
    """The options in redis://, rediss://, unix://, redis+cluster:// or rediss+cluster://.

    Raises:
        StoreConfigError: a part of the URL is wrong. No message contains a password.
    """
    parts = split_url(url)
    cluster = parts.scheme.endswith("+cluster")
    accepted = {name: read for name, read in _READERS.items() if not cluster or name != "db"}
    accepted |= _TLS_READERS if parts.scheme.startswith("rediss") else {}
    given = parameters(parts, accepted)
    tls = {name: given.pop(name) for name in _TLS_READERS if name in given}
    credentials, _, hosts = parts.netloc.rpartition("@")
    if parts.scheme == "unix":
        addresses: tuple[Address, ...] = (_unix_address(hosts, parts.path),)
    else:
        addresses = tuple(map(_address, hosts.split(",") if cluster else [hosts]))
        given = _database(parts.path, cluster) | given
    return RedisOptions(
        addresses=addresses,
        cluster=cluster,
        tls=tls if parts.scheme.startswith("rediss") else None,
        **_credentials(credentials) | given,
    )


_DECIMAL = r"[0-9]{1,9}(\.[0-9]{1,9})?"
_TRUTH = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
_seconds = number(float, "seconds above 0", _DECIMAL)

_READERS: dict[str, Callable[[str], Any]] = {
    "db": number(int, "a number", r"[0-9]{1,9}"),
    "username": str,
    "password": str,
    "client_name": str,
    "max_connections": number(int, "a number above 0", r"[0-9]{1,6}"),
    "timeout": _seconds,
    "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds,
    "health_check_interval": number(float, "seconds, or 0 for never", _DECIMAL),
    "max_context_bytes": parse_size,
    "hot_bytes": parse_size,
}
_TLS_READERS: dict[str, Callable[[str], Any]] = {
    "ssl_ca_certs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_cert_reqs": one_of({"required": "required", "optional": "optional", "none": "none"}),
    "ssl_check_hostname": one_of(_TRUTH),
}


def _unix_address(host: str, path: str) -> Address:
    if host or not path:
        raise StoreConfigError("store URL unix://: accepted: an absolute path, as in unix:///run/redis.sock")
    return Address(unquote(path), 0)


def _address(text: str) -> Address:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^:,\[\]]*)(?::([0-9]{1,5}))?", text)
    port = int(match[2] or DEFAULT_PORT) if match else 0
    if not match or not 0 < port < 2**16:
        # Not quoted: without an "@", what was meant as a password lands here.
        raise StoreConfigError("store URL address; accepted: host or host:port, the port a number from 1 to 65535")
    return Address(unquote(match[1].strip("[]")) or "localhost", port)


def _database(path: str, cluster: bool) -> dict[str, int]:
    if cluster and path not in ("", "/"):
        raise StoreConfigError("store URL database; accepted: none, a cluster has only one")
    if not re.fullmatch(r"/?|/[0-9]{1,9}", path):
        # Not quoted: what follows an unescaped "/" in a password lands here.
        raise StoreConfigError("store URL database; accepted: a number, as in redis://host/0, and %2F in a password")
    return {"db": int(path[1:])} if path[1:] else {}


def _credentials(text: str) -> dict[str, str]:
    username, _, password = text.partition(":")
    return {name: unquote(value) for name, value in (("username", username), ("password", password)) if value}

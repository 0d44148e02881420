"""Parse a Redis URL into addresses and connection options."""

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
    """The address of one Redis server."""

    host: str  # or the path of a unix socket
    port: int  # 0 for a unix socket

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """Hold the addresses of Redis and the options of connections.

    The parameters of a URL are the fields from `client_name` on.

    Attributes:
        addresses: address of the server, or of some nodes of a cluster.
        cluster: whether it is a cluster.
        username, password: credentials of an ACL user; None for none.
        db: number of the database.
        tls: redis-py's options for TLS; None without TLS.
        client_name: name of the connections in CLIENT LIST.
        max_connections: largest number of commands and pipelines on their way to one server; others wait.
        timeout: longest time for an operation in seconds, with waiting for a connection and retries.
        socket_timeout: longest time for sending a command or receiving a reply, in seconds.
        socket_connect_timeout: longest time for connecting, in seconds.
        health_check_interval: seconds after which an idle connection is check_reply before use; 0 for never.
        max_context_bytes: size of the largest encoded context.
        hot_bytes: budget of the memory tier in front of Redis, in bytes; None for no such tier.
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
        """The addresses, for messages."""
        addresses = ",".join(map(str, self.addresses))
        return addresses if self.cluster else f"{addresses}/{self.db}"


def parse_redis_url(url: str) -> RedisOptions:
    """Parse a redis://, rediss://, unix://, redis+cluster:// or rediss+cluster:// URL.

    Raises:
        StoreConfigError: a part of the URL is wrong. No message contains a password.
    """
    parts = split_url(url)
    cluster = parts.scheme.endswith("+cluster")
    parsers = {name: parser for name, parser in _PARSERS.items() if not cluster or name != "db"}
    parsers |= _TLS_PARSERS if parts.scheme.startswith("rediss") else {}
    values = parameters(parts, parsers)
    tls = {name: values.pop(name) for name in _TLS_PARSERS if name in values}
    credentials, _, hosts = parts.netloc.rpartition("@")
    if parts.scheme == "unix":
        addresses: tuple[Address, ...] = (_unix_address(hosts, parts.path),)
    else:
        addresses = tuple(map(_address, hosts.split(",") if cluster else [hosts]))
        values = _database(parts.path, cluster) | values
    return RedisOptions(
        addresses=addresses,
        cluster=cluster,
        tls=tls if parts.scheme.startswith("rediss") else None,
        **_credentials(credentials) | values,
    )


_DECIMAL = r"[0-9]{1,9}(\.[0-9]{1,9})?"
_BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
_seconds = number(float, "seconds above 0", _DECIMAL)

_PARSERS: dict[str, Callable[[str], Any]] = {
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
_TLS_PARSERS: dict[str, Callable[[str], Any]] = {
    "ssl_ca_certs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_cert_reqs": one_of({"required": "required", "optional": "optional", "none": "none"}),
    "ssl_check_hostname": one_of(_BOOLEANS),
}


def _unix_address(host: str, path: str) -> Address:
    if host or not path:
        raise StoreConfigError("store URL unix://: accepted: an absolute path, as in unix:///run/redis.sock")
    return Address(unquote(path), 0)


def _address(text: str) -> Address:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^:,\[\]]*)(?::([0-9]{1,5}))?", text)
    port = int(match[2] or DEFAULT_PORT) if match else 0
    if not match or not 0 < port < 2**16:
        # Not quoted: without an "@", a password would be parsed as an address.
        raise StoreConfigError("store URL address; accepted: host or host:port, the port a number from 1 to 65535")
    return Address(unquote(match[1].strip("[]")) or "localhost", port)


def _database(path: str, cluster: bool) -> dict[str, int]:
    if cluster and path not in ("", "/"):
        raise StoreConfigError("store URL database; accepted: none, a cluster has only one")
    if not re.fullmatch(r"/?|/[0-9]{1,9}", path):
        # Not quoted: the rest of a password after an unescaped "/" would be parsed as a database.
        raise StoreConfigError("store URL database; accepted: a number, as in redis://host/0, and %2F in a password")
    return {"db": int(path[1:])} if path[1:] else {}


def _credentials(text: str) -> dict[str, str]:
    username, _, password = text.partition(":")
    return {name: unquote(value) for name, value in (("username", username), ("password", password)) if value}

"""Describe contexts in Redis from the heads of their values."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from lookonce_cache.context import frames_of
from lookonce_cache.errors import ContextFormatError
from lookonce_cache.format.header import MAX_HEAD_BYTES, Header, decode_head
from lookonce_cache.identity import ContextKey
from lookonce_cache.stores.base import ContextInfo
from lookonce_cache.stores.redis.index import value_key
from lookonce_cache.stores.redis.node import Command
from lookonce_cache.stores.redis.topology import Servers, WrongTypeError, check_reply


class Damage(NamedTuple):
    """A value that is damaged, or not the one of its key."""

    reason: str  # see `ContextFormatError.reason`


async def read_infos(servers: Servers, keys: Sequence[ContextKey]) -> Sequence[ContextInfo | Damage | None]:
    """Describe the contexts of some keys in one round trip; None for a missing one.

    Raises:
        StoreUnavailableError: see `Servers.send`.
    """
    commands: list[Command] = []
    for key in keys:
        commands += [("GETRANGE", value_key(key), 0, MAX_HEAD_BYTES - 1), ("PTTL", value_key(key))]
    replies = await servers.send(*commands)
    return [
        _info(servers, key, *pair)
        for key, pair in zip(keys, zip(replies[::2], replies[1::2], strict=True), strict=True)
    ]


def _info(servers: Servers, key: ContextKey, first_bytes: Any, ttl_ms: Any) -> ContextInfo | Damage | None:
    try:
        first_bytes, ttl_ms = check_reply(servers, first_bytes), check_reply(servers, ttl_ms)
        head = decode_head(first_bytes, key) if first_bytes else None
    except WrongTypeError:
        return Damage("foreign")
    except ContextFormatError as error:
        return Damage(error.reason)
    return None if head is None else _describe(key, head, None if ttl_ms < 0 else time.time() + ttl_ms / 1000)


def _describe(key: ContextKey, head: Header, expires_at: float | None) -> ContextInfo:
    facts, identity = head.facts, head.identity
    return ContextInfo(
        key=key,
        model_fingerprint=identity.model_fingerprint,
        description=facts["description"],
        image_tokens=head.tensors["scores"].shape[0],
        kept_tokens=head.tensors["kept_indices"].shape[-1],
        tokens=facts["shared_tokens"] + head.shape[2],
        bytes=sum(tensor.nbytes for tensor in head.tensors.values()),
        created_at=facts["created_at"],
        expires_at=expires_at,
        retention=identity.retention,
        selection=identity.selection,
        precision=identity.precision,
        frames=frames_of(facts["grid"]),
    )

"""Contexts in this process's memory: the embedded default."""

import time
from collections import OrderedDict
from dataclasses import dataclass, replace

import torch

from lookonce_cache.context import CompressedContext
from lookonce_cache.errors import ContextTooLargeError
from lookonce_cache.store import MAX_LISTED, ContextInfo

DEFAULT_MAX_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class _Entry:
    context: CompressedContext
    expires_at: float  # in time.monotonic's seconds; infinite for never


class MemoryStore:
    """A `Store` that holds at most `max_bytes` of tensors and drops the least recently used context first.

    No method waits, so none is interrupted: within one event loop every call is atomic.

    Args:
        max_bytes: budget for the tensors, in bytes.
        ttl: seconds a context lives after its last use, None for ever.
    """

    tier = "memory"

    def __init__(self, *, max_bytes: int = DEFAULT_MAX_BYTES, ttl: float | None = None) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._ttl = ttl
        # Least recently used first. All contexts share one TTL, so this is also the order in which they expire.
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    async def get(self, context_id: str) -> CompressedContext | None:
        """See `Store.get`."""
        self._drop_expired()
        entry = self._entries.get(context_id)
        if entry is None:
            return None
        self._entries[context_id] = replace(entry, expires_at=self._expiry())
        self._entries.move_to_end(context_id)
        return entry.context

    async def put(self, context: CompressedContext) -> None:
        """See `Store.put`.

        Raises:
            ContextTooLargeError: the context alone exceeds the budget; what is stored stays as it is.
        """
        self._drop_expired()
        if context.nbytes > self.max_bytes:
            raise ContextTooLargeError(f"a context of {context.nbytes} bytes exceeds max_bytes={self.max_bytes}")
        self._drop(context.id)
        while self.used_bytes + context.nbytes > self.max_bytes:
            self._drop(next(iter(self._entries)))
        self._entries[context.id] = _Entry(_owning_its_memory(context), self._expiry())
        self.used_bytes += context.nbytes

    async def delete(self, context_id: str) -> bool:
        """See `Store.delete`."""
        self._drop_expired()
        return self._drop(context_id)

    async def info(self, context_id: str) -> ContextInfo | None:
        """See `Store.info`."""
        self._drop_expired()
        entry = self._entries.get(context_id)
        return None if entry is None else self._describe(entry)

    async def list(self, limit: int = 100) -> tuple[ContextInfo, ...]:
        """See `Store.list`."""
        self._drop_expired()
        newest = list(reversed(self._entries.values()))[: min(limit, MAX_LISTED)]
        return tuple(map(self._describe, newest))

    async def ping(self) -> None:
        """See `Store.ping`."""

    async def close(self) -> None:
        """See `Store.close`."""
        self._entries.clear()
        self.used_bytes = 0

    def _expiry(self) -> float:
        return float("inf") if self._ttl is None else time.monotonic() + self._ttl

    def _drop(self, context_id: str) -> bool:
        entry = self._entries.pop(context_id, None)
        if entry is None:
            return False
        self.used_bytes -= entry.context.nbytes
        return True

    def _drop_expired(self) -> None:
        now = time.monotonic()
        while self._entries and next(iter(self._entries.values())).expires_at <= now:
            self._drop(next(iter(self._entries)))

    def _describe(self, entry: _Entry) -> ContextInfo:
        context = entry.context
        return ContextInfo(
            id=context.id,
            description=context.description,
            image_tokens=context.image_tokens,
            kept_tokens=context.kept_tokens,
            tokens=context.tokens,
            bytes=context.nbytes,
            created_at=context.created_at,
            expires_at=None if self._ttl is None else time.time() + entry.expires_at - time.monotonic(),
            retention=context.retention,
            selection=context.selection,
        )


def _owning_its_memory(context: CompressedContext) -> CompressedContext:
    """The context with tensors that are views into something larger copied: the budget counts what is held."""
    return replace(
        context,
        keys=_own(context.keys),
        values=_own(context.values),
        kept_indices=_own(context.kept_indices),
        scores=_own(context.scores),
    )


def _own(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()

"""Start vLLM's prompts with contexts: placeholders, a salt and a file."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import torch
import xxhash

from lookonce_server.engines.prefix import DenseContext
from lookonce_server.engines.vllm.connector.files import SharedFiles
from lookonce_server.engines.vllm.connector.messages import Load

_PLACEHOLDER = 0  # stands for each of a context's tokens; never computed, so any id of the vocabulary will do


class AttachedContext(NamedTuple):
    """A context that requests may start with, while its file is there."""

    load: Load
    salt: str

    def prompt(self, after: list[int]) -> dict[str, Any]:
        """Return a prompt for vLLM: the context, and the tokens after it."""
        return {"prompt_token_ids": [_PLACEHOLDER] * self.load.tokens + after, "cache_salt": self.salt}


class ContextPrompts:
    """Attach contexts to prompts.

    All contexts have the same placeholders, so vLLM's prefix cache tells them apart by the salt alone. It stands for
    the context's id and its very bytes (two makings of one image's context may differ in a bit, and a prompt must not
    start with one and go on with the other), and for a secret: nobody outside can know or choose it.
    """

    def __init__(self, files: SharedFiles) -> None:
        self._files = files
        self._secret = secrets.token_bytes(32)

    @asynccontextmanager
    async def attach(self, name: str, context: DenseContext) -> AsyncIterator[AttachedContext]:
        """Attach a context that requests can start with inside the block.

        Args:
            name: the context's id.
            context: on the CPU.
        """
        content = f"{name} {await asyncio.to_thread(_checksum, context)}"
        async with self._files.share(content, context._asdict()) as path:
            yield AttachedContext(Load(str(path), context.tokens), self.salt(content))

    def salt(self, content: str) -> str:
        """Return a salt that keeps one content's cached blocks from another."""
        return hashlib.blake2b(content.encode(), key=self._secret, digest_size=32).hexdigest()


def _checksum(context: DenseContext) -> str:
    """Return a checksum that tells two makings of one context apart."""
    total = xxhash.xxh3_128(f"{context.keys.dtype} {tuple(context.keys.shape)}".encode())
    for tensor in context:
        total.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()

"""Start vLLM's prompts with contexts: placeholders, a salt and a file."""

import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import torch
import xxhash

from lookonce_cache import CompressedContext
from lookonce_server.engines.join import Join
from lookonce_server.engines.prefix import DenseContext, TextKV
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
    what they hold, see `name_join`, and for a secret: nobody outside can know or choose it.
    """

    def __init__(self, files: SharedFiles) -> None:
        self._files = files
        self._secret = secrets.token_bytes(32)

    @asynccontextmanager
    async def attach(
        self, content: str, tokens: int, combine: Callable[[], DenseContext]
    ) -> AsyncIterator[AttachedContext]:
        """Attach a context that requests can start with inside the block.

        Args:
            content: names what it holds.
            tokens: of it.
            combine: makes it, on the CPU; called in a thread, unless workers can have what an earlier request made.

        Raises:
            ContextLostError: it cannot be handed to the workers.
        """
        async with self._files.share(content, lambda: combine()._asdict()) as path:
            yield AttachedContext(Load(str(path), tokens), self.salt(content))

    def salt(self, content: str) -> str:
        """Return a salt that keeps one content's cached blocks from another."""
        return hashlib.blake2b(content.encode(), key=self._secret, digest_size=32).hexdigest()


def name_join(join: Join, texts: Sequence[TextKV], contexts: Sequence[CompressedContext]) -> str:
    """Name what joined contexts hold: their ids, their very bytes, the text around them, and where all is put.

    Two makings of one image's context may differ in a bit, and a prompt must not start with one and go on with the
    other. The bytes are those that are stored: nothing is dequantized for a name.
    """
    total = xxhash.xxh3_128(repr((join.layout, join.num_prefix_tokens, [text.number for text in texts])).encode())
    for context in contexts:
        for tensor in (context.keys, context.values):
            total.update(f"{tensor.precision} {tensor.dtype} {tensor.shape}".encode())
            for part in tensor.parts:
                total.update(part.contiguous().view(torch.uint8).numpy().data)
    return " ".join([*(context.id for context in contexts), total.hexdigest()])

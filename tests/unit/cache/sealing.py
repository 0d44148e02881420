"""Values with valid checksums around any header and tensors: what somebody who knows the format could send."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from lookonce_cache.format.checksum import DIGEST_BYTES, checksum
from lookonce_cache.format.header import ALIGNMENT, FORMAT_VERSION, MAGIC, PREFIX


class Opened(NamedTuple):
    """A value's two inner pieces."""

    header: bytes
    tensors: bytes  # from the first one's first byte to the last one's last


def opened(data: bytes) -> Opened:
    """The pieces of a whole value."""
    end = PREFIX.size + PREFIX.unpack_from(data)[2]
    return Opened(data[PREFIX.size : end], data[aligned(end + DIGEST_BYTES) : -DIGEST_BYTES])


def header_of(data: bytes) -> dict[str, Any]:
    """A whole value's header."""
    return msgpack.unpackb(opened(data).header)


def aligned(offset: int) -> int:
    """The first aligned offset from there on."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def sealed(header: bytes, tensors: bytes, *, total: int | None = None, version: int = FORMAT_VERSION) -> bytes:
    """A value with valid checksums.

    Args:
        header: its bytes.
        tensors: their bytes, with what is between them.
        total: what the prefix says of the value's length, None for the truth.
        version: what the prefix says.
    """
    head_bytes = PREFIX.size + len(header) + DIGEST_BYTES
    start = aligned(head_bytes)
    true_total = start + len(tensors) + DIGEST_BYTES
    head = PREFIX.pack(MAGIC, version, len(header), true_total if total is None else total) + header
    value = head + checksum(head) + bytes(start - head_bytes) + tensors
    return value + checksum(value)


def pack(value: Any) -> bytes:
    """In msgpack; also text that is no UTF-8."""
    packed: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return packed


def packed(pairs: list[tuple[Any, bytes]]) -> bytes:
    """A msgpack map of packed values, in which a key may come twice."""
    first: bytes = msgpack.Packer().pack_map_header(len(pairs))
    return first + b"".join(pack(key) + value for key, value in pairs)


@contextmanager
def memory_limit(nbytes: int) -> Iterator[None]:
    """Whoever allocates more than so many bytes at once, on top of what this process has, gets an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

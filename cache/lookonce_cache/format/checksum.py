"""Compute the checksum of stored values."""

import xxhash

DIGEST_BYTES = 16


def checksum(*parts: bytes | memoryview) -> bytes:
    """Compute XXH3-128 over the parts in a row.

    It finds damage, at memory speed: over ten times that of BLAKE2b, on values of tens of megabytes. It does not stop a
    forger, and no unkeyed checksum would: anyone who may write to the store can compute it too.
    """
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(part)
    return state.digest()

"""Content keys: everything that changes a context's bytes decides its key, and nothing else does."""

import hashlib
from dataclasses import dataclass, fields

import msgpack

from lookonce_cache.errors import InvalidContextError
from lookonce_cache.header import FORMAT_VERSION


def digest(data: bytes) -> str:
    """BLAKE2b-256 of `data`, as 64 lowercase hex digits. Never shorten it: two images must not share one."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextIdentity:
    """What a context is a function of. Two contexts share a key only if all of this is equal.

    Attributes:
        tenant: whose context it is; tenants never share one.
        model_fingerprint: identity of configuration, weights and processor.
        image_digest: `digest` of the image's bytes.
        describe_prompt: the describe pass's instruction.
        template_digest: `digest` of the chat template.
        retention: share of the image tokens kept.
        selection: name of the selection method.
        window: first and last layer of the scoring window.
        precision: name of the storage precision, such as "bfloat16".
        format_version: version of the wire format.
    """

    tenant: str
    model_fingerprint: str
    image_digest: str
    describe_prompt: str
    template_digest: str
    retention: float
    selection: str
    window: tuple[int, int]
    precision: str
    format_version: int = FORMAT_VERSION

    def key(self) -> str:
        """The context's id: BLAKE2b-256 as 64 lowercase hex digits.

        Hashed is a msgpack array of the fields in the order above. msgpack writes each value's type and length before
        it, so no two identities encode alike; BLAKE2b's personalisation sets the key apart from other digests.

        Raises:
            InvalidContextError: a text is not valid Unicode (a lone surrogate).
        """
        try:
            encoded: bytes = msgpack.packb([getattr(self, field.name) for field in fields(self)])
        except UnicodeEncodeError as error:
            raise InvalidContextError(f"a text of the identity cannot be encoded as UTF-8: {error.reason}") from None
        return hashlib.blake2b(encoded, digest_size=32, person=b"lookonce-context").hexdigest()

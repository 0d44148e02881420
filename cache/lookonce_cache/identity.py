"""Derive a context's key from everything that changes its bytes."""

import hashlib
import math
import re
import reprlib
from dataclasses import asdict, dataclass, fields

import msgpack

from lookonce_cache.errors import InvalidContextError

FORMAT_VERSION = 1
DEFAULT_TENANT = "default"
PRECISIONS = ("native", "fp8", "int8", "int4")
"""Storage precisions, from the most bytes to the fewest; see `quantize`."""
# In bytes of UTF-8. Together with the description's they keep every header below its own limit.
TEXT_LIMITS = {"model_fingerprint": 512, "describe_prompt": 24 * 1024, "selection": 512}

_DIGEST = re.compile(r"[0-9a-f]{64}")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother = 2, 100, 100


def digest(data: bytes) -> str:
    """Compute BLAKE2b-256 as 64 hex digits; never shorten it, or images collide."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def check_tenant(name: str) -> str:
    """Return a tenant's name if it is valid.

    It becomes part of Redis keys, URLs and logs.

    Raises:
        InvalidContextError: the name is not 1 to 64 letters, digits, ".", "_" or "-", the first a letter or digit.
    """
    if not isinstance(name, str) or not _TENANT.fullmatch(name):
        raise InvalidContextError(
            f"tenant: {brief(name)}; accepted: 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first"
        )
    return name


@dataclass(frozen=True, slots=True, order=True)
class ContextKey:
    """Name a context by its tenant and id; other tenants cannot see it.

    Attributes:
        tenant: the tenant's name; see `check_tenant`.
        id: 64 lowercase hex digits.

    Raises:
        InvalidContextError: one of them is malformed; nothing can be stored under such a key.
    """

    tenant: str
    id: str

    def __post_init__(self) -> None:
        check_tenant(self.tenant)
        require(is_digest(self.id), "id must be 64 lowercase hex digits", self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextIdentity:
    """Hold everything that a context depends on.

    Two contexts with equal identities share a key.

    Attributes:
        tenant: name of the tenant; tenants never share a context.
        model_fingerprint: identity of configuration, weights, processor and arithmetic.
        image_digest: `digest` of the image's bytes.
        describe_prompt: prompt of the describe pass.
        template_digest: `digest` of the chat template.
        retention: share of the image tokens kept, a fraction between 0 and 1.
        selection: name of the selection method, with its parameters.
        window: half-open range of layers, the scoring window.
        precision: storage precision, one of `PRECISIONS`.
        format_version: version of the wire format.

    Raises:
        InvalidContextError: a field has the wrong type, form or range.
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

    def __post_init__(self) -> None:
        check_tenant(self.tenant)
        for name in ("image_digest", "template_digest"):
            text = getattr(self, name)
            require(is_digest(text), f"{name} must be 64 lowercase hex digits", text)
        for name, limit in TEXT_LIMITS.items():
            check_text(name, getattr(self, name), limit)
        is_share = isinstance(self.retention, float) and 0 <= self.retention <= 1
        require(is_share, "retention must be a float between 0 and 1", self.retention)
        object.__setattr__(self, "retention", abs(self.retention))  # -0.0 equals 0.0 and would have another key
        is_range = isinstance(self.window, tuple) and [type(layer) for layer in self.window] == [int, int]
        require(
            is_range and 0 <= self.window[0] < self.window[1] < 2**31,
            "window must be two ints, 0 <= first < end",
            self.window,
        )
        is_known = isinstance(self.precision, str) and self.precision in PRECISIONS
        require(is_known, f"precision must be one of {', '.join(PRECISIONS)}", self.precision)
        is_version = type(self.format_version) is int and 0 < self.format_version < 2**32
        require(is_version, "format_version must be a positive int", self.format_version)

    def as_dict(self) -> dict[str, object]:
        """Return the fields as the header of the wire format has them."""
        return asdict(self)

    def key(self) -> ContextKey:
        """Compute the context's key; its id is BLAKE2b-256 as 64 lowercase hex digits.

        The hash is over a msgpack array of the fields in the order above. msgpack writes each value's type and length
        before it, so no two identities encode alike; BLAKE2b's personalisation sets the id apart from other digests.
        """
        encoded: bytes = msgpack.packb([getattr(self, field.name) for field in fields(self)])
        return ContextKey(self.tenant, hashlib.blake2b(encoded, digest_size=32, person=b"lookonce-context").hexdigest())


def is_digest(text: object) -> bool:
    """Tell whether a value is a 256-bit digest, as 64 lowercase hex digits."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def is_seconds(time: object) -> bool:
    """Tell whether a value is a point in unix time, a float."""
    return isinstance(time, float) and math.isfinite(time) and time >= 0


def brief(value: object) -> str:
    """Format a value for an error message.

    The text is short, and safe even for a hostile header's value.
    """
    return _BRIEF.repr(value)


def require(condition: object, message: str, *values: object) -> None:
    """Raise InvalidContextError unless the condition holds."""
    if not condition:
        raise InvalidContextError(message + "".join(f", not {brief(value)}" for value in values))


def check_text(name: str, text: object, limit: int) -> None:
    """Raise InvalidContextError unless `text` is a str of at most `limit` UTF-8 bytes."""
    require(isinstance(text, str), f"{name} must be a str, not {type(text).__name__}")
    try:
        size = len(str(text).encode())
    except UnicodeEncodeError:
        raise InvalidContextError(f"{name} has lone surrogates and cannot be stored as UTF-8") from None
    require(size <= limit, f"{name} has {size} bytes of UTF-8, the limit is {limit}")

"""What can go wrong with a context or a store.

    CacheError
    ├── InvalidContextError      (also a ValueError) a context whose parts contradict each other
    ├── ContextTooLargeError     a context that the store could never hold
    ├── RecordTooLargeError      a record that no store takes
    ├── LeaseLostError           a context was made under a lease that was broken, or is another's
    ├── ContextFormatError       bytes that are not a whole, undamaged context of this format
    ├── StoreConfigError         (also a ValueError) a bad store URL or option
    └── StoreUnavailableError    the backend cannot be reached, or refuses to serve
        └── WritesRefusedError   it serves reads, and takes no writes for now

Stores never let `ContextFormatError` out, since a damaged value is a miss: it is for callers of `decode`.
"""


class CacheError(Exception):
    """Base of every error this package raises on purpose."""


class InvalidContextError(CacheError, ValueError):
    """A context's fields have the wrong type, shape or range, or contradict each other."""


class ContextTooLargeError(CacheError):
    """A context is larger than the store's whole budget, or than the backend's largest value."""


class BlobTooLargeError(CacheError):
    """A record is larger than any may be."""


class LeaseLostError(CacheError):
    """The lease under which a context was made was broken, or is somebody else's now; see `Store.put`."""


class ContextFormatError(CacheError):
    """Bytes could not be decoded into a context.

    Attributes:
        reason: a slug for metrics: "truncated", "trailing", "foreign", "version", "header" or "checksum".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{message} [{reason}]")
        self.reason = reason


class StoreConfigError(CacheError, ValueError):
    """A store URL or option is wrong; the message names it, its value and what is accepted."""


class StoreUnavailableError(CacheError):
    """The store's backend cannot be reached, timed out or refused the command. No message contains a password."""


class WritesRefusedError(StoreUnavailableError):
    """The store's backend answers, and does not carry out writes for now; reads go on.

    Attributes:
        reason: a slug for metrics: "misconf", "noreplicas", "oom", "readonly" or "noperm".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

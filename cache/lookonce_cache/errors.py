"""Define the errors of contexts and stores.

    CacheError
    ├── InvalidContextError      (also a ValueError) a context whose fields are wrong or contradict each other
    ├── ContextTooLargeError     a context that the store could never hold
    ├── BlobTooLargeError        a blob larger than any store takes
    ├── LeaseLostError           a context was made under a lease that no longer holds
    ├── ContextFormatError       bytes that are not a complete, undamaged context of this format
    ├── StoreConfigError         (also a ValueError) a bad store URL or option
    └── StoreUnavailableError    the backend cannot be reached, or refuses to serve
        └── WritesRefusedError   the backend serves reads, and refuses writes for now

Stores never raise `ContextFormatError`, since a damaged value is a miss: it is for callers of `decode`.
"""


class CacheError(Exception):
    """The base class of every error that this package raises on purpose."""


class InvalidContextError(CacheError, ValueError):
    """A context's fields have a wrong type, shape or range, or contradict each other."""


class ContextTooLargeError(CacheError):
    """A context exceeds the store's budget, or the backend's largest value."""


class BlobTooLargeError(CacheError):
    """A blob is larger than `MAX_BLOB_BYTES`."""


class LeaseLostError(CacheError):
    """The lease under which a context was made no longer holds; see `Store.put`."""


class ContextFormatError(CacheError):
    """Bytes could not be decoded into a context.

    Attributes:
        reason: label for metrics: "truncated", "trailing", "foreign", "version", "header" or "checksum".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{message} [{reason}]")
        self.reason = reason


class StoreConfigError(CacheError, ValueError):
    """A store URL or option is wrong."""


class StoreUnavailableError(CacheError):
    """The backend cannot be reached, timed out or refused the command.

    No message contains a password.
    """


class WritesRefusedError(StoreUnavailableError):
    """The backend serves reads, and refuses writes for now.

    Attributes:
        reason: label for metrics: "misconf", "noreplicas", "oom", "readonly" or "noperm".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

"""The client of lookonce: look at an image once, ask about it as often as you like."""

from importlib.metadata import version as _version

from ._client import Lookonce
from ._exceptions import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ContextNotFoundError,
    ImageSourceError,
    LookonceError,
    NotFoundError,
    OverloadedError,
    ServerError,
)
from ._images import ImageSource
from ._session import ImageSession
from ._stream import AnswerStream
from ._types import Answer, AskOptions, Context, ContextStats

__version__ = _version("lookonce")

__all__ = [
    "APIConnectionError",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "Answer",
    "AnswerStream",
    "AskOptions",
    "AuthenticationError",
    "BadRequestError",
    "Context",
    "ContextNotFoundError",
    "ContextStats",
    "ImageSession",
    "ImageSource",
    "ImageSourceError",
    "Lookonce",
    "LookonceError",
    "NotFoundError",
    "OverloadedError",
    "ServerError",
    "__version__",
]

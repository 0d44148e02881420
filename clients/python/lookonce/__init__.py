"""The client of lookonce: look at an image once, ask about it as often as you like."""

from typing import TYPE_CHECKING

from ._chat import AsyncChat, Chat
from ._client import AsyncClient, Client
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
    PermissionDeniedError,
    RateLimitError,
    ServerError,
)
from ._images import ImageSource
from ._saved import Saved
from ._session import AsyncImageSession, ImageSession
from ._stream import AnswerStream, AsyncAnswerStream, AsyncDescriptionStream, DescriptionStream
from ._types import Answer, AskOptions, Context, ContextOptions, ContextStats, ContextTokens, ImageOptions, Turn

__all__ = [
    "APIConnectionError",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "Answer",
    "AnswerStream",
    "AskOptions",
    "AsyncAnswerStream",
    "AsyncChat",
    "AsyncClient",
    "AsyncDescriptionStream",
    "AsyncImageSession",
    "AuthenticationError",
    "BadRequestError",
    "Chat",
    "Client",
    "Context",
    "ContextNotFoundError",
    "ContextOptions",
    "ContextStats",
    "ContextTokens",
    "DescriptionStream",
    "ImageOptions",
    "ImageSession",
    "ImageSource",
    "ImageSourceError",
    "LookonceError",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "RateLimitError",
    "Saved",
    "ServerError",
    "Turn",
    "__version__",
]

__version__: str

if not TYPE_CHECKING:  # or every name would be taken for an attribute

    def __getattr__(name: str) -> str:
        """`__version__`, read when it is asked for: importlib.metadata takes half as long as all of this package."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        return version("lookonce")

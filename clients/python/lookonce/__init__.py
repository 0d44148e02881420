"""Look at an image once, ask about it as often as you like."""

from typing import TYPE_CHECKING

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
from ._reference import ImageSource, VideoSource
from ._session import AsyncChat, AsyncImageSession, AsyncImagesSession, Chat, ImageSession, ImagesSession
from ._streaming import AnswerStream, AsyncAnswerStream, AsyncDescriptionStream, DescriptionStream
from ._types import (
    Answer,
    AskOptions,
    Context,
    ContextOptions,
    ContextStats,
    ContextTokens,
    ImageOptions,
    ImageUsage,
    Saved,
    Turn,
)

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
    "AsyncImagesSession",
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
    "ImageUsage",
    "ImagesSession",
    "LookonceError",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "RateLimitError",
    "Saved",
    "ServerError",
    "Turn",
    "VideoSource",
    "__version__",
]

__version__: str

if not TYPE_CHECKING:  # or every name would be taken for an attribute

    def __getattr__(name: str) -> str:
        """Read `__version__` on demand: importing importlib.metadata is slow."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        return version("lookonce")

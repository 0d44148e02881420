"""What `/v1/contexts` is asked and answers: what a route sends is checked against these, and OpenAPI tells them."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from lookonce_cache import CompressedContext, ContextInfo, Page
from lookonce_server.http.schemas.chat import ContextParams
from lookonce_server.http.schemas.messages import ImageUrlText
from lookonce_server.http.schemas.must_be_unset import RequestModel
from lookonce_server.sessions.context_builder import selection_method
from lookonce_server.sessions.contexts import TenantStats


class PictureRequest(RequestModel):
    """An image by its URL, as JSON. In a form it is the file field `image`."""

    image_url: Annotated[ImageUrlText, Field(description="a base64 data: URL, or one that the server may fetch")]


class PictureForm(RequestModel):
    """What comes beside the image in a form: nothing."""


class ContextForm(ContextParams):
    """What comes beside the image in a form."""

    stream: bool = False


class ContextRequest(PictureRequest, ContextForm):
    """`POST /v1/contexts`, as JSON."""


class ContextObject(BaseModel):
    """What is told of a context."""

    id: str
    object: Literal["context"] = "context"
    created_at: int
    expires_at: int | None
    description: str
    image_tokens: int
    kept_tokens: int
    tokens: int
    bytes: int
    retention: float
    selection: str
    precision: str

    @classmethod
    def of(cls, info: ContextInfo) -> "ContextObject":
        """A stored context's."""
        return cls(
            id=info.key.id,
            created_at=int(info.created_at),
            expires_at=_unix(info.expires_at),
            description=info.description,
            image_tokens=info.image_tokens,
            kept_tokens=info.kept_tokens,
            tokens=info.tokens,
            bytes=info.bytes,
            retention=info.retention,
            selection=selection_method(info),
            precision=info.precision,
        )


class ContextList(BaseModel):
    """A page of contexts."""

    object: Literal["list"] = "list"
    data: list[ContextObject]
    has_more: bool
    next: str | None

    @classmethod
    def of(cls, page: Page) -> "ContextList":
        """A store's page."""
        return cls(data=list(map(ContextObject.of, page.infos)), has_more=page.next is not None, next=page.next)


class ContextStats(BaseModel):
    """What a tenant's contexts amount to."""

    object: Literal["context.stats"] = "context.stats"
    contexts: int
    bytes: int
    oldest: int | None
    newest: int | None
    hits: int
    misses: int
    hit_rate: float | None

    @classmethod
    def of(cls, found: TenantStats) -> "ContextStats":
        """Of a tenant's."""
        lookups = found.hits + found.misses
        return cls(
            contexts=found.stored.contexts,
            bytes=found.stored.bytes,
            oldest=_unix(found.stored.oldest),
            newest=_unix(found.stored.newest),
            hits=found.hits,
            misses=found.misses,
            hit_rate=found.hits / lookups if lookups else None,
        )


class ContextDeleted(BaseModel):
    """A context is forgotten."""

    id: str
    object: Literal["context.deleted"] = "context.deleted"
    deleted: Literal[True] = True


class ContextTokens(BaseModel):
    """The image's tokens: what attention each drew, and which are kept."""

    id: str
    object: Literal["context.tokens"] = "context.tokens"
    grid: Annotated[list[int], Field(min_length=2, max_length=2, description="rows and columns")]
    scores: Annotated[list[float], Field(description="one an image token, row by row")]
    kept: Annotated[list[int], Field(description="indices into the scores, ascending")]
    retention: float
    selection: str

    @classmethod
    def of(cls, context: CompressedContext, kept: list[int], retention: float) -> "ContextTokens":
        """A context's, with what it keeps, or would keep at that retention."""
        return cls(
            id=context.id,
            grid=list(context.grid),
            scores=context.scores.tolist(),
            kept=kept,
            retention=retention,
            selection=selection_method(context.identity),
        )


def _unix(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)

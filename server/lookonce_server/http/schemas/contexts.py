"""The requests and answers of `/v1/contexts`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from lookonce_cache import CompressedContext, ContextInfo, Page
from lookonce_pruning import TileLayout
from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.image_field import ImageField, frame_sampling
from lookonce_server.http.schemas.chat import ContextParams
from lookonce_server.http.schemas.messages import FileId, Fps, ImageUrlText, MaxFrames, VideoUrlText
from lookonce_server.http.schemas.must_be_unset import RequestModel
from lookonce_server.sessions.context_builder import selection_method
from lookonce_server.sessions.contexts import TenantStats

_OF_VIDEO = ("video_url", "fps", "max_frames")


def _without(*names: str) -> dict[str, JsonValue]:
    """Return a schema's `properties` in which these are null."""
    return {name: {"type": "null"} for name in names}


class ImageUrlRequest(RequestModel):
    """An image by its URL, as JSON. In a form it is the file field `image`."""

    image_url: Annotated[ImageUrlText, Field(description="a base64 data: URL, or one that the server may fetch")]

    def image_field(self, max_frames: int) -> ImageField:
        """Return the URL, and its field."""
        return ImageField(self.image_url, "image_url")


class ImageForm(RequestModel):
    """The fields of a form beside its image: none."""


class ContextForm(ContextParams):
    """The fields of a form beside its image."""

    stream: bool = False


class ContextRequest(ContextForm):
    """`POST /v1/contexts`, as JSON: an image or a video by its URL."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["image_url"], "properties": _without("file_id", *_OF_VIDEO)},
                {"required": ["file_id"], "properties": _without("image_url", *_OF_VIDEO)},
                {"required": ["video_url"], "properties": _without("image_url", "file_id")},
            ]
        }
    )

    image_url: Annotated[
        ImageUrlText | None, Field(description="a base64 data: URL, or one that the server may fetch")
    ] = None
    file_id: FileId | None = None
    video_url: Annotated[
        VideoUrlText | None, Field(description="a base64 data: URL, or one that the server may fetch")
    ] = None
    fps: Fps | None = None
    max_frames: MaxFrames | None = None

    def image_field(self, max_frames: int) -> ImageField:
        """Return the URL, its field, and which frames are taken of a video.

        Args:
            max_frames: most frames that a request may ask for.

        Raises:
            InvalidRequestError: it names nothing, or two things, or has a field of a video beside an image's.
        """
        if self.file_id is not None and (self.image_url or self.video_url) is not None:
            raise InvalidRequestError("file_id: a context is of a file or of a URL, not of both.", param="file_id")
        if self.video_url is None:
            if self.image_url is None and self.file_id is None:
                raise InvalidRequestError("image_url: Field required.", param="image_url")
            for name in ("fps", "max_frames"):
                if getattr(self, name) is not None:
                    raise InvalidRequestError(f"{name}: an image has no frames; send a video_url.", param=name)
            return ImageField(self.image_url, "image_url" if self.image_url else "file_id", file_id=self.file_id)
        if self.image_url is not None:
            raise InvalidRequestError("video_url: a context is of an image or a video, not of both.", param="video_url")
        return ImageField(self.video_url, "video_url", frame_sampling(self, "", max_frames))


class ContextObject(BaseModel):
    """A context's facts."""

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
    frames: int | None = None  # of a video, as the model sees them

    @classmethod
    def of(cls, info: ContextInfo) -> "ContextObject":
        """Return a stored context's facts."""
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
            frames=info.frames,
        )


class ContextDescription(BaseModel):
    """What the model said of an image."""

    id: str
    object: Literal["context.description"] = "context.description"
    description: str
    created_at: int
    expires_at: int | None

    @classmethod
    def of(cls, info: ContextInfo) -> "ContextDescription":
        """Return a stored context's description."""
        return cls(
            id=info.key.id,
            description=info.description,
            created_at=int(info.created_at),
            expires_at=_unix(info.expires_at),
        )


class ContextList(BaseModel):
    """A page of contexts."""

    object: Literal["list"] = "list"
    data: list[ContextObject]
    has_more: bool
    next: str | None

    @classmethod
    def of(cls, page: Page) -> "ContextList":
        """Return a store's page."""
        return cls(data=list(map(ContextObject.of, page.infos)), has_more=page.next is not None, next=page.next)


class ContextStats(BaseModel):
    """The totals of a tenant's contexts."""

    object: Literal["context.stats"] = "context.stats"
    contexts: int
    bytes: int
    oldest: int | None
    newest: int | None
    hits: int
    misses: int
    hit_rate: float | None
    tokens_saved: int

    @classmethod
    def of(cls, stats: TenantStats) -> "ContextStats":
        """Return a tenant's totals."""
        lookups = stats.hits + stats.misses
        return cls(
            contexts=stats.stored.contexts,
            bytes=stats.stored.bytes,
            oldest=_unix(stats.stored.oldest),
            newest=_unix(stats.stored.newest),
            hits=stats.hits,
            misses=stats.misses,
            hit_rate=stats.hits / lookups if lookups else None,
            tokens_saved=stats.saved_tokens,
        )


class ContextDeleted(BaseModel):
    """The answer to a deletion."""

    id: str
    object: Literal["context.deleted"] = "context.deleted"
    deleted: Literal[True] = True


class ContextTokens(BaseModel):
    """The attention scores of the image's tokens, and the tokens kept."""

    id: str
    object: Literal["context.tokens"] = "context.tokens"
    grid: Annotated[
        list[int], Field(min_length=2, max_length=3, description="rows and columns; a video's frames before them")
    ]
    boxes: Annotated[
        list[list[float]] | None,
        Field(
            description="of tokens that lie in tiles: left, top, right and bottom of each, as shares of the width and"
            " height of the image, or of the frame; all 0 for one that shows nothing. Null where the grid tells"
        ),
    ]
    scores: Annotated[list[float], Field(description="one an image token, row by row")]
    kept: Annotated[list[int], Field(description="indices into the scores, ascending")]
    retention: float
    selection: str

    @classmethod
    def of(cls, context: CompressedContext, kept: list[int], retention: float) -> "ContextTokens":
        """Return a context's scores with the tokens that it keeps, or would keep."""
        return cls(
            id=context.id,
            grid=list(context.grid),
            boxes=_boxes(context),
            scores=context.scores.tolist(),
            kept=kept,
            retention=retention,
            selection=selection_method(context.identity),
        )


def _boxes(context: CompressedContext) -> list[list[float]] | None:
    """Return the place of each token, in shares with as many digits as pixels need; None where the grid tells."""
    if not context.layout:
        return None
    boxes: list[list[float]] = TileLayout.of(context.layout).boxes().repeat(context.frames or 1, 1).tolist()
    return [[round(side, 6) for side in box] for box in boxes]


def _unix(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)

"""Serve the image tokens that a context keeps, as numbers and as a picture.

Neither counts as use, and neither makes a context.
"""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from PIL import Image

from lookonce_cache import CompressedContext, digest
from lookonce_pruning import TileLayout
from lookonce_server.engines.geometry import Area, ImageCrop
from lookonce_server.errors import InvalidImageError, InvalidRequestError
from lookonce_server.http.bodies.image_request import documented_body, read_image_request
from lookonce_server.http.image_reader import ImageReader
from lookonce_server.http.schemas.contexts import ContextTokens, ImageForm, ImageUrlRequest
from lookonce_server.http.schemas.errors import errors
from lookonce_server.http.state import Tenant, state_of
from lookonce_server.images.sources import ImageBytes
from lookonce_server.sessions.heatmap import TokenMap, draw_grid, draw_over
from lookonce_server.sessions.preview import kept_at_retention, kept_indices

router = APIRouter(prefix="/v1/contexts/{context_id}")
_WIDTHS = (448, 1024)  # default bounds of a picture with a heat map

Retention = Annotated[
    float | None, Query(gt=0, le=1, description="show the tokens that would be kept at that share, not those that are")
]
Width = Annotated[int | None, Query(ge=16, le=2048, description="of the picture, in pixels")]


_SCHEMA = {"schema": {"type": "string", "format": "binary"}}
_PNG: dict[int | str, dict[str, Any]] = {200: {"description": "The picture.", "content": {"image/png": _SCHEMA}}}


@router.get("/tokens", responses=errors(400, 404, 503))
async def tokens(context_id: str, request: Request, tenant: Tenant, retention: Retention = None) -> ContextTokens:
    """Return the scores of the image's tokens, and the indices of those kept."""
    context = await state_of(request).contexts.peek(tenant, context_id)
    kept = await asyncio.to_thread(_kept, context, retention)
    return ContextTokens.of(context, kept, retention or context.identity.retention)


@router.get("/heatmap.png", response_class=Response, responses={**_PNG, **errors(400, 404, 503)})
async def heatmap(
    context_id: str, request: Request, tenant: Tenant, retention: Retention = None, width: Width = None
) -> Response:
    """Draw the scores and the tokens kept, as they lie in the image."""
    context = await state_of(request).contexts.peek(tenant, context_id)
    return Response(await asyncio.to_thread(_grid, context, retention, width), media_type="image/png")


@router.post(
    "/heatmap.png",
    response_class=Response,
    responses={**_PNG, **errors(400, 404, 415, 503)},
    openapi_extra=documented_body(ImageForm, ImageUrlRequest),
)
async def heatmap_over(
    context_id: str, request: Request, tenant: Tenant, retention: Retention = None, width: Width = None
) -> Response:
    """Draw the scores over the image, which must be sent again."""
    state = state_of(request)
    reader = ImageReader(state, tenant)
    image, _ = await read_image_request(request, state.images, reader, ImageForm, ImageUrlRequest)
    context = await state.contexts.peek(tenant, context_id)
    image_crop = None if context.layout else state.engine.facts.image_crop
    _check_places(context, image_crop)
    await asyncio.to_thread(_check_image, context, image)
    picture = await state.images.decode(image)
    assert isinstance(picture, Image.Image)

    def draw() -> bytes:
        shown = width or min(max(picture.width, _WIDTHS[0]), _WIDTHS[1])
        area = image_crop.area(*picture.size).shares(*picture.size) if image_crop else Area(0, 0, 1, 1)
        return draw_over(picture, _token_map(context, retention, area), shown)

    return Response(await asyncio.to_thread(draw), media_type="image/png")


def _grid(context: CompressedContext, retention: float | None, width: int | None) -> bytes:
    return draw_grid(_token_map(context, retention, Area(0, 0, 1, 1)), width or _WIDTHS[0])


def _token_map(context: CompressedContext, retention: float | None, area: Area) -> TokenMap:
    """Return the map of an image, or of a video's frames side by side.

    Args:
        context: whose tokens are shown.
        retention: see `heatmap`.
        area: of the picture, in shares of it, that a grid covers; tiles tell theirs.
    """
    kept, frames = _kept(context, retention), context.frames or 1
    if context.layout:
        return TokenMap.of_layout(context.scores.numpy(), kept, TileLayout.of(context.layout), frames)
    return TokenMap.of_grid(context.scores.numpy(), kept, context.grid, area)


def _kept(context: CompressedContext, retention: float | None) -> list[int]:
    return kept_indices(context) if retention is None else kept_at_retention(context, retention)


def _check_places(context: CompressedContext, image_crop: ImageCrop | None) -> None:
    """Raise InvalidRequestError if the context's tokens have no known place in a picture."""
    if context.frames is not None:
        raise InvalidRequestError("The context is a video's: GET draws its frames side by side, without them.")
    is_grid = image_crop is not None and (context.grid[0] > 1 or context.image_tokens == 1)
    if not context.layout and not is_grid:
        raise InvalidRequestError(
            "The places of this model's image tokens in a picture are unknown. GET draws them without the picture."
        )


def _check_image(context: CompressedContext, image: ImageBytes) -> None:
    if digest(image.content) != context.identity.image_digest:
        raise InvalidImageError("This is not the context's image, byte by byte.", param=image.param)

"""`/v1/contexts`: prepare images ahead, see and delete what is kept."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from lookonce_cache import ContextInfo
from lookonce_server.api.parsing import read_image
from lookonce_server.api.schemas import ContextRequest
from lookonce_server.api.state import state_of
from lookonce_server.errors import InvalidImageError
from lookonce_server.sessions import ImageBytes

router = APIRouter(prefix="/v1/contexts")


@router.post("")
async def create(body: ContextRequest, request: Request) -> dict[str, Any]:
    """Describe an image and keep its context; an image that was described before is not described again."""
    state = state_of(request)
    image = await asyncio.to_thread(read_image, body.image_url, "image_url", state.limits)
    if not isinstance(image, ImageBytes):
        raise InvalidImageError("A context is made from an image: send a base64 data: URL.", param="image_url")
    return _shown(await state.sessions.prepare(image))


@router.get("")
async def index(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
    """The contexts kept, in no particular order."""
    infos = await state_of(request).sessions.list(limit)
    return {"object": "list", "data": [_shown(info) for info in infos]}


@router.get("/{context_id}")
async def get(context_id: str, request: Request) -> dict[str, Any]:
    """One context."""
    return _shown(await state_of(request).sessions.info(context_id))


@router.delete("/{context_id}")
async def delete(context_id: str, request: Request) -> dict[str, Any]:
    """Forget a context."""
    await state_of(request).sessions.delete(context_id)
    return {"id": context_id, "object": "context.deleted", "deleted": True}


def _shown(info: ContextInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "object": "context",
        "created_at": int(info.created_at),
        "expires_at": None if info.expires_at is None else int(info.expires_at),
        "description": info.description,
        "image_tokens": info.image_tokens,
        "kept_tokens": info.kept_tokens,
        "tokens": info.tokens,
        "bytes": info.bytes,
        "retention": info.retention,
        "selection": info.selection,
    }

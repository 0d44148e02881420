"""`/v1/contexts`: prepare images ahead, see and delete what is kept. A tenant meets its own contexts only."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from lookonce_cache import ContextInfo
from lookonce_server.api.schemas import ContextRequest
from lookonce_server.api.state import Tenant, state_of
from lookonce_server.errors import InvalidImageError
from lookonce_server.images import ImageBytes

router = APIRouter(prefix="/v1/contexts")


@router.post("")
async def create(body: ContextRequest, request: Request, tenant: Tenant) -> dict[str, Any]:
    """Describe an image and keep its context; an image that was described before is not described again."""
    state = state_of(request)
    image = await state.images.read(body.image_url, "image_url")
    if not isinstance(image, ImageBytes):
        raise InvalidImageError("A context is made from an image: send a base64 data: URL.", param="image_url")
    return _shown(await state.contexts.prepare(tenant, image))


@router.get("")
async def index(
    request: Request,
    tenant: Tenant,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """The contexts kept, a page at a time; `next` is the `after` of the page that follows."""
    page = await state_of(request).contexts.list(tenant, limit, after)
    return {
        "object": "list",
        "data": [_shown(info) for info in page.infos],
        "has_more": page.next is not None,
        "next": page.next,
    }


@router.get("/stats")
async def stats(request: Request, tenant: Tenant) -> dict[str, Any]:
    """How many contexts there are, their bytes and ages, and how often they were found by this server."""
    found = await state_of(request).contexts.stats(tenant)
    lookups = found.hits + found.misses
    return {
        "object": "context.stats",
        "contexts": found.stored.contexts,
        "bytes": found.stored.bytes,
        "oldest": _unix(found.stored.oldest),
        "newest": _unix(found.stored.newest),
        "hits": found.hits,
        "misses": found.misses,
        "hit_rate": found.hits / lookups if lookups else None,
    }


@router.get("/{context_id}")
async def get(context_id: str, request: Request, tenant: Tenant) -> dict[str, Any]:
    """One context."""
    return _shown(await state_of(request).contexts.info(tenant, context_id))


@router.delete("/{context_id}")
async def delete(context_id: str, request: Request, tenant: Tenant) -> dict[str, Any]:
    """Forget a context."""
    await state_of(request).contexts.delete(tenant, context_id)
    return {"id": context_id, "object": "context.deleted", "deleted": True}


def _shown(info: ContextInfo) -> dict[str, Any]:
    return {
        "id": info.key.id,
        "object": "context",
        "created_at": int(info.created_at),
        "expires_at": _unix(info.expires_at),
        "description": info.description,
        "image_tokens": info.image_tokens,
        "kept_tokens": info.kept_tokens,
        "tokens": info.tokens,
        "bytes": info.bytes,
        "retention": info.retention,
        "selection": info.selection.partition("/")[0],  # the method alone, without what else decides its result
        "precision": info.precision,
    }


def _unix(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)

"""`/v1/contexts/{id}/tokens` and `.../heatmap.png`: what a context keeps of its image, in numbers and as a picture.

None of it counts as use, and nothing is made.
"""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request

from lookonce_cache import CompressedContext
from lookonce_server.api.context_schemas import ContextTokens
from lookonce_server.api.documented import errors
from lookonce_server.api.state import Tenant, state_of
from lookonce_server.previewing import kept_by, would_keep

router = APIRouter(prefix="/v1/contexts/{context_id}")
Retention = Annotated[
    float | None, Query(gt=0, le=1, description="what would be kept at that share; else what the context keeps")
]


@router.get("/tokens", responses=errors(400, 404, 503))
async def tokens(context_id: str, request: Request, tenant: Tenant, retention: Retention = None) -> ContextTokens:
    """The scores of the image's tokens, and which of them are kept."""
    context = await state_of(request).contexts.peek(tenant, context_id)
    kept = await _kept(context, retention)
    return ContextTokens.of(context, kept, retention or context.identity.retention)


async def _kept(context: CompressedContext, retention: float | None) -> list[int]:
    return kept_by(context) if retention is None else await asyncio.to_thread(would_keep, context, retention)
